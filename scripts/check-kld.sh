#!/usr/bin/env bash
# Compares kld with llama.cpp's llama-perplexity --kl-divergence: the same digits without the file of logits, the same file with
# --save-logits, and the same digits from that file.
#
#   scripts/check-kld.sh [CHUNKS]
#
# Environment: LLAMA_IMATRIX_BIN, the program to check instead of the one built here; LLAMA_IMATRIX_UPSTREAM_BIN, see upstream.sh.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)

die() {
    printf 'check-kld: %s\n' "$*" >&2
    exit 1
}

# The delay keeps the last lines: see exit-delay.sh.
perplexity() {
    LD_PRELOAD=$work/exit-delay.so DYLD_INSERT_LIBRARIES=$work/exit-delay.so EXIT_DELAY_MS=500 \
        "$upstream/llama-perplexity" "$@" 2>>upstream.log
}

# statistics FILE: the tables without the lines per chunk
statistics() { sed -n '/^====== Perplexity/,/^Same top p/p' "$1"; }

# check MODEL CANDIDATE TEXT CONTEXT
check() {
    perplexity -m "$1" -f "$3" -c "$4" --chunks "$chunks" --kl-divergence-base base.logits >/dev/null || true
    perplexity -m "$2" -f "$3" -c "$4" --chunks "$chunks" --kl-divergence-base base.logits --kl-divergence >theirs.txt || true
    "$ours" kld "$1" "$2" -f "$3" -c "$4" --chunks "$chunks" >ours.txt 2>ours.log || die "kld failed: $(tail -n 1 ours.log)"
    statistics theirs.txt >theirs.tables
    statistics ours.txt >ours.tables
    [ -s theirs.tables ] || die "llama-perplexity printed no statistics for $2"
    diff theirs.tables ours.tables >tables.diff || {
        cat tables.diff >&2
        die "$(basename "$2"): the tables differ"
    }
    grep -E '^ +[0-9]+ ' theirs.txt >theirs.lines
    grep -E '^ +[0-9]+ ' ours.txt >ours.lines
    diff theirs.lines ours.lines >lines.diff || {
        head -n 4 lines.diff >&2
        die "$(basename "$2"): the lines per chunk differ"
    }
    "$ours" kld "$1" -f "$3" -c "$4" --chunks "$chunks" --save-logits ours.logits 2>ours.log || die "--save-logits failed"
    cmp base.logits ours.logits >&2 || die "the files of logits differ"
    "$ours" kld base.logits "$2" -f "$3" -c "$4" --chunks "$chunks" >from-file.txt 2>ours.log || die "kld with a file failed"
    cmp ours.txt from-file.txt >&2 || die "$(basename "$2"): the tables from the file differ"
    printf '%-20s %s: equal; the file of logits had %d bytes\n' "$(basename "$2")" "$(grep 'Mean    KLD' ours.tables)" "$(wc -c <base.logits)"
}

main() {
    chunks=${1:-8}
    # shellcheck source=scripts/env.sh
    . "$here/env.sh"
    upstream=$("$here/upstream.sh" | tail -n 1)
    ours=$(llama_imatrix_program)
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    "$here/exit-delay.sh" "$work/exit-delay.so"
    local model=$root/assets/quickstart/quickstart.gguf type
    for type in Q8_0 Q4_K_M Q2_K; do
        "$upstream/llama-quantize" "$model" "$type.gguf" "$type" >quantize.log 2>&1
        check "$model" "$type.gguf" "$root/assets/quickstart/held-out.txt" 512
    done
    check "$model" Q2_K.gguf "$root/assets/quickstart/held-out.txt" 256
    echo "check-kld: all equal"
}

main "$@"
