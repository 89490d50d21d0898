#!/usr/bin/env bash
# Fuzzes the readers of files and texts, the state file, lens and convergence files, the merge, chat templates and the
# greeting of an RPC server:
# scripts/fuzz.sh [SECONDS [TARGET...]]
#
# Each target runs for SECONDS (60) under AddressSanitizer, with leak detection, a timeout of 10 seconds and a memory limit,
# starting from the committed corpus. It writes failures to fuzz/artifacts/ and new inputs to fuzz/work/.
# The flags of cargo-fuzz need a nightly compiler; a stable one accepts them with RUSTC_BOOTSTRAP=1.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(gguf_imatrix dat state merge lens convergence chat jsonl compressed logits rpc_greeting)

command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: cargo install cargo-fuzz --locked" >&2; exit 1; }
export RUSTC_BOOTSTRAP=1
# The flags of this checkout are for the program; the fuzzers use the flags of cargo-fuzz.
unset RUSTFLAGS
export CARGO_TARGET_DIR="${FUZZ_TARGET_DIR:-$PWD/fuzz/target}"

# Builds all targets first, so that all runs use the same state of the checkout.
cargo fuzz build
binaries="$CARGO_TARGET_DIR/$(rustc -vV | sed -n 's/^host: //p')/release"

failed=0
for target in "${targets[@]}"; do
    mkdir -p "fuzz/work/$target" "fuzz/artifacts/$target"
    log="fuzz/work/$target.log"
    if ! "$binaries/$target" "fuzz/work/$target" "fuzz/corpus/$target" \
        -artifact_prefix="fuzz/artifacts/$target/" \
        -dict=fuzz/formats.dict -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 \
        -max_len=65536 -detect_leaks=1 -print_final_stats=1 >"$log" 2>&1; then
        failed=1
        echo "$target: FAILED"
        tail -n 40 "$log"
        continue
    fi
    # Libfuzzer's last progress line has the coverage, its statistics the executions.
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(grep -o 'cov: [0-9]* ft: [0-9]*' "$log" | tail -n 1)
    peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
    echo "$target: $executions executions, $coverage, peak $peak MB, no crash, leak or timeout"
done
exit $failed
