#!/usr/bin/env bash
# Compares kld with llama.cpp's llama-perplexity --kl-divergence: the same digits without the file of logits, the same file with
# --save-logits, and the same digits from that file.
#
#   scripts/check-kld.sh [CHUNKS]            the bundled model and four small ones: experts, soft caps, tied embeddings, MLA
#   scripts/check-kld.sh --large [CHUNKS]    models of make-model, with the CPU time and the peak memory of both programs
#
# Environment: LLAMA_IMATRIX_BIN, the program to check instead of the one built here; LLAMA_IMATRIX_UPSTREAM_BIN, see upstream.sh;
# THREADS, of both programs with --large (1).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)

die() {
    printf 'check-kld: %s\n' "$*" >&2
    exit 1
}

# measured NAME COMMAND..: runs a command. With --large, appends its CPU seconds and its peak memory in KiB to NAME.usage.
measured() {
    local name=$1
    shift
    if [ -n "$large" ]; then
        /usr/bin/time --quiet -a -o "$name.usage" -f '%U %S %M' "$@"
    else
        "$@"
    fi
}

# The delay keeps the last lines: see exit-delay.sh.
perplexity() {
    LD_PRELOAD=$work/exit-delay.so DYLD_INSERT_LIBRARIES=$work/exit-delay.so EXIT_DELAY_MS=500 \
        measured theirs "$upstream/llama-perplexity" ${threads[@]+"${threads[@]}"} "$@" 2>>upstream.log
}

# usage NAME: CPU seconds of all runs, and the peak memory of the largest in MiB
usage() { awk '{ cpu += $1 + $2; if ($3 > most) most = $3 } END { printf "%.1f s, %d MiB", cpu, most / 1024 }' "$1.usage"; }

# statistics FILE: the tables without the lines per chunk
statistics() { sed -n '/^====== Perplexity/,/^Same top p/p' "$1"; }

# check MODEL CANDIDATE TEXT CONTEXT [FLAG OF llama-perplexity]
check() {
    local label
    label="$(basename "$1" .gguf) $(basename "$2" .gguf)"
    rm -f theirs.usage ours.usage
    perplexity -m "$1" -f "$3" -c "$4" --chunks "$chunks" --kl-divergence-base base.logits ${5:+"$5"} >/dev/null || true
    perplexity -m "$2" -f "$3" -c "$4" --chunks "$chunks" --kl-divergence-base base.logits --kl-divergence ${5:+"$5"} >theirs.txt || true
    measured ours "$ours" kld "$1" "$2" -f "$3" -c "$4" --chunks "$chunks" ${threads[@]+"${threads[@]}"} >ours.txt 2>ours.log ||
        die "$label: kld failed: $(tail -n 1 ours.log)"
    statistics theirs.txt >theirs.tables
    statistics ours.txt >ours.tables
    [ -s theirs.tables ] || die "$label: llama-perplexity printed no statistics"
    diff theirs.tables ours.tables >tables.diff || {
        cat tables.diff >&2
        die "$label: the tables differ"
    }
    grep -E '^ +[0-9]+ ' theirs.txt >theirs.lines
    grep -E '^ +[0-9]+ ' ours.txt >ours.lines
    diff theirs.lines ours.lines >lines.diff || {
        head -n 4 lines.diff >&2
        die "$label: the lines per chunk differ"
    }
    "$ours" kld "$1" -f "$3" -c "$4" --chunks "$chunks" ${threads[@]+"${threads[@]}"} --save-logits ours.logits 2>ours.log ||
        die "$label: --save-logits failed"
    cmp base.logits ours.logits >&2 || die "$label: the files of logits differ"
    "$ours" kld base.logits "$2" -f "$3" -c "$4" --chunks "$chunks" ${threads[@]+"${threads[@]}"} >from-file.txt 2>ours.log ||
        die "$label: kld with a file failed"
    cmp ours.txt from-file.txt >&2 || die "$label: the tables from the file differ"
    printf '%-22s %s: equal; the file of logits had %d bytes\n' "$label" "$(grep 'Mean    KLD' ours.tables)" "$(wc -c <base.logits)"
    [ -z "$large" ] || printf '    llama-perplexity, two runs: %s; kld: %s\n' "$(usage theirs)" "$(usage ours)"
    rm -f base.logits ours.logits
}

quantize() { "$upstream/llama-quantize" --allow-requantize "$1" "$2" "$3" >quantize.log 2>&1 || die "llama-quantize fails for $1"; }

small() {
    local model=$root/assets/quickstart/quickstart.gguf type
    for type in Q8_0 Q4_K_M Q2_K; do
        quantize "$model" "$type.gguf" "$type"
        check "$model" "$type.gguf" "$root/assets/quickstart/held-out.txt" 512
    done
    check "$model" Q2_K.gguf "$root/assets/quickstart/held-out.txt" 256
    (cd "$root" && cargo run --release --quiet --no-default-features --example test-models -- "$work/models" >&2)
    for model in qwen3moe gemma2 gemma3; do
        quantize "models/$model.gguf" Q4_0.gguf Q4_0
        check "models/$model.gguf" Q4_0.gguf models/calibration.txt 256
    done
    # With AMX llama.cpp aborts at a matrix per head, unless it repacks nothing; ours notices that itself.
    local amx=""
    ! grep -q amx_tile /proc/cpuinfo 2>/dev/null || amx=--no-repack
    quantize models/deepseek2.gguf Q4_0.gguf Q4_0
    check models/deepseek2.gguf Q4_0.gguf models/calibration.txt 256 "$amx"
}

large() {
    local bench=$LLAMA_IMATRIX_CACHE/bench name
    mkdir -p "$bench"
    local text=$root/assets/quickstart/calibration.txt
    for name in dense-small dense-0.6b moe hybrid; do
        [ -f "$bench/$name.gguf" ] || "$here/make-model" "$name" "$bench/$name.gguf"
        quantize "$bench/$name.gguf" Q4_0.gguf Q4_0
        check "$bench/$name.gguf" Q4_0.gguf "$text" 512
        rm -f Q4_0.gguf
    done
}

main() {
    large=
    threads=()
    if [ "${1:-}" = --large ]; then
        large=1
        threads=(-t "${THREADS:-1}")
        [ -x /usr/bin/time ] || die "--large needs GNU time, /usr/bin/time"
        shift
    fi
    chunks=${1:-8}
    # shellcheck source=scripts/env.sh
    . "$here/env.sh"
    upstream=$("$here/upstream.sh" | tail -n 1)
    ours=$(llama_imatrix_program)
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    "$here/exit-delay.sh" "$work/exit-delay.so"
    if [ -n "$large" ]; then large; else small; fi
    echo "check-kld: all equal"
}

main "$@"
