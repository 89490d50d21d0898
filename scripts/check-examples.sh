#!/usr/bin/env bash
# Runs every example on the bundled model and compares its output with the program's.
#
#   scripts/check-examples.sh
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)
model=assets/quickstart/quickstart.gguf

if [ $# -gt 0 ]; then
    sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 1
fi
"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$root"
cargo build --quiet --release --bins --examples
program=$CARGO_TARGET_DIR/release/llama-imatrix
examples=$CARGO_TARGET_DIR/release/examples
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
text=$scratch/text
head -c 40000 assets/quickstart/calibration.txt >"$text"

die() {
    echo "check-examples: $*" >&2
    exit 1
}

# same A B WHAT
same() {
    cmp "$1" "$2" || die "$3 are not the same"
    printf '%s: %s\n' "$3" "$(sha256sum "$1" | cut -c1-16)"
}

# The program's matrix with these flags.
collect() {
    local out=$1
    shift
    "$program" -m "$model" -f "$text" -o "$out" "$@" >/dev/null 2>&1 || die "llama-imatrix $* failed"
}

collect "$scratch/program.gguf"
"$examples/collect" "$model" "$text" "$scratch/collect.gguf" 2>"$scratch/log" || die "collect: $(cat "$scratch/log")"
same "$scratch/program.gguf" "$scratch/collect.gguf" "collect and the program"

collect "$scratch/single.gguf" -b 512
"$examples/attach" "$model" "$text" "$scratch/attach.gguf" 2>"$scratch/log" || die "attach: $(tail -n 5 "$scratch/log")"
same "$scratch/single.gguf" "$scratch/attach.gguf" "attach and the program with -b 512"

"$examples/heaviest" "$scratch/program.gguf" >"$scratch/heaviest"
[ "$(wc -l <"$scratch/heaviest")" -eq 10 ] || die "heaviest printed $(wc -l <"$scratch/heaviest") lines"
printf 'heaviest: %s\n' "$(head -n 1 "$scratch/heaviest")"

"$examples/merge_weighted" "$scratch/weighted.gguf" "$scratch/program.gguf=1" "$scratch/single.gguf=2.5"
"$program" merge "$scratch/program.gguf" "$scratch/single.gguf" --weight 1,2.5 -o "$scratch/merged.gguf" >/dev/null 2>&1
same "$scratch/merged.gguf" "$scratch/weighted.gguf" "merge_weighted and llama-imatrix merge"

printf 'Once upon a time\nThe sun\n' | "$examples/chat" "$model" "$scratch/chat.gguf" >"$scratch/replies" 2>/dev/null ||
    die "chat failed"
[ "$(wc -c <"$scratch/replies")" -gt 40 ] || die "chat said nothing"
printf 'chat: %s\n' "$(head -n 1 "$scratch/replies")"
"$program" stats "$scratch/chat.gguf" >"$scratch/stats"
grep -q 'blk.0.ffn_down.weight' "$scratch/stats" || die "chat left no matrix"
