#!/usr/bin/env bash
# Runs the program with a sanitized llama.cpp over the test models: addresses and undefined behaviour, or threads.
#
#   scripts/sanitize.sh [address|thread] [MODEL...]
#   scripts/sanitize.sh products [SECONDS]       the kernels of src/products over random products, for 60 seconds
#
# llama.cpp, ggml and the shims of vendor/ are compiled with -fsanitize=address,undefined, or for lanes with thread. (With
# thread, ggml uses its own threads, since the sanitizer does not know OpenMP's.) For threads, the Rust code and its standard
# library are instrumented too, or the sanitizer would not see their locks. For addresses they are not: their unsafe code calls
# C, and the sanitizer checks the memory that C reads and writes. The kernels are Rust: with products, Rust is instrumented for
# addresses, and llama.cpp is not. Any report is a failure, except those in scripts/sanitize/*.supp, which also has the reasons.
#
# Needs gcc with its sanitizers, and for threads the sources of Rust's standard library (rustup component add rust-src). The
# build, in a separate folder, takes 1.5 times as long as a build of llama.cpp.
# MODEL: the test models to run; by default all that run, including those with NextN and the hostile ones.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
what=${1:-address}
case "$what" in
address) flags="-fsanitize=address,undefined -fno-sanitize=vptr" ;;
thread) flags="-fsanitize=thread" ;;
products) flags="" ;;
*)
    sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 1
    ;;
esac
shift || true
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$here/.."
tree=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

host=$(rustc -vV | sed -n 's/^host: //p')
# ggml's OpenMP team is not instrumented, and does not need to be for addresses.
if [ "$what" = products ]; then
    # A stable compiler has this option only with this variable.
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-C target-cpu=native -Zsanitizer=address" CARGO_TARGET_DIR="$LLAMA_IMATRIX_CACHE/sanitize-products" \
        cargo build --release --target "$host" --no-default-features --features llama,openmp --example products-check
    ASAN_OPTIONS="detect_leaks=1" LSAN_OPTIONS="suppressions=$tree/scripts/sanitize/leak.supp:print_suppressions=0" \
        "$LLAMA_IMATRIX_CACHE/sanitize-products/$host/release/examples/products-check" "${1:-60}" --bits
    exit
fi
build() (
    # Cargo's target is named so that build scripts are not linked with the sanitizer. CMake gets no other flags: -O1 keeps the
    # build short, and with assert() on.
    local link="" rust="" word
    local -a cargo=() final=()
    if [ "$what" = thread ]; then
        # A stable compiler has these options only with this variable. The sanitizer's library is Rust's.
        export RUSTC_BOOTSTRAP=1
        rust=" -Zsanitizer=thread"
        cargo=(-Zbuild-std)
        [ -d "$(rustc --print sysroot)/lib/rustlib/src" ] || rustup component add rust-src
    else
        for word in $flags; do link="$link -C link-arg=$word"; done
        # gcc links its sanitizer only along with its default libraries.
        final=(-- -C default-linker-libraries=yes)
    fi
    RUSTFLAGS="-C target-cpu=native$rust$link" CFLAGS="$flags" CXXFLAGS="$flags" \
        CMAKE_C_FLAGS="$flags -fPIC -g1 -fno-omit-frame-pointer" CMAKE_CXX_FLAGS="$flags -fPIC -g1 -fno-omit-frame-pointer" \
        CMAKE_C_FLAGS_RELEASE="-O1" CMAKE_CXX_FLAGS_RELEASE="-O1" CARGO_TARGET_DIR="$LLAMA_IMATRIX_CACHE/sanitize-$what" \
        cargo rustc "${cargo[@]}" --release --target "$host" --no-default-features --features llama,cli \
        --bin llama-imatrix "${final[@]}"
)
build
program="$LLAMA_IMATRIX_CACHE/sanitize-$what/$host/release/llama-imatrix"
cargo run --release --quiet --no-default-features --example test-models -- "$folder/models"

export ASAN_OPTIONS="log_path=$folder/report:detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1"
export LSAN_OPTIONS="suppressions=$tree/scripts/sanitize/leak.supp:print_suppressions=0"
export UBSAN_OPTIONS="log_path=$folder/report:print_stacktrace=1:suppressions=$tree/scripts/sanitize/undefined.supp"
export TSAN_OPTIONS="log_path=$folder/report:suppressions=$tree/scripts/sanitize/thread.supp:history_size=4:second_deadlock_stack=1"
export GGML_NO_BACKTRACE=1

runs=0
bad=0
# run CODE MODEL FLAG...: the program with a model, and what it must exit with.
run() {
    local wanted=$1 model=$2 code=0 report
    shift 2
    "$program" -m "$model" "$@" >"$folder/out" 2>"$folder/err" </dev/null || code=$?
    runs=$((runs + 1))
    for report in "$folder"/report.*; do
        [ -e "$report" ] || continue
        bad=$((bad + 1))
        echo "${model##*/} $*: $(grep -m 1 -E 'ERROR|WARNING|runtime error' "$report" || head -n 1 "$report")"
        if [ -n "${KEEP:-}" ]; then
            mkdir -p "$KEEP"
            mv "$report" "$KEEP/"
        else
            sed -n 1,40p "$report"
            rm "$report"
        fi
    done
    if [ "$code" != "$wanted" ]; then
        bad=$((bad + 1))
        echo "${model##*/} $*: exit code $code, expected $wanted: $(tail -n 1 "$folder/err")"
    fi
}

chosen() {
    local wanted name
    name=$(basename "$1" .gguf)
    [ $# -gt 1 ] || return 0
    for wanted in "${@:2}"; do if [ "$wanted" = "$name" ]; then return 0; fi; done
    return 1
}

cd "$folder"
head -c 12000 models/calibration.txt >text.txt
mkdir docs
split -n 5 --additional-suffix=.txt text.txt docs/part
text="-f text.txt -c 64 -t 2"
for model in models/*.gguf models/beyond/*.gguf models/nextn/nextn*.gguf; do
    case "$model" in */nextn-unused.gguf | */nextn-empty.gguf) continue ;; esac
    chosen "$model" "$@" || continue
    # shellcheck disable=SC2086
    {
        run 0 "$model" $text -b 64 --chunks 8 --lanes 3 --no-ppl -o m.gguf
        run 0 "$model" $text -b 128 --chunks 6 --lanes 2 --process-output -ofreq 2 -o m.gguf
        [ "$what" = address ] || continue
        run 0 "$model" $text -b 256 -ub 96 --chunks 4 --lanes 1 --state-frequency 1 -o m.gguf
        run 0 "$model" -f docs -c 64 -t 1 --documents --accumulate f64 --no-ppl -o m.gguf
        run 0 "$model" $text -b 64 --chunks 2 --sum-on device --no-ppl -o m.gguf
        run 0 "$model" $text -b 64 --chunks 4 --dry-run -o m.gguf
    }
done
if [ "$what" = address ]; then
    for model in models/llama.gguf models/qwen3moe.gguf models/gemma2.gguf; do
        chosen "$model" "$@" || continue
        # shellcheck disable=SC2086
        run 0 "$model" $text -b 64 --chunks 2 --logit-lens --logit-prism --layer-similarity -o m.gguf
    done
    for model in models/nextn/nextn.gguf models/nextn/nextn-head.gguf models/nextn/nextn-hybrid.gguf; do
        chosen "$model" "$@" || continue
        # shellcheck disable=SC2086
        run 0 "$model" $text -b 64 --chunks 2 --nextn --process-output -o m.gguf
    done
    for model in models/hostile/*-layer.gguf models/hostile/*truncated*.gguf models/nextn/trunk-undeclared.gguf; do
        # Infinite weights end in an assert() of ggml that only this build has.
        case "$model" in */llama-inf-layer.gguf) continue ;; esac
        chosen "$model" "$@" || continue
        # shellcheck disable=SC2086
        run 1 "$model" $text -b 64 --chunks 2 --no-ppl -o m.gguf
    done
fi
echo "$what: $runs runs, $bad reports"
[ "$bad" = 0 ]
