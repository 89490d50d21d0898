#!/usr/bin/env bash
# Runs llama.cpp's llama-imatrix, repaired by tests/data/nextn/tool.sh, and ours on the test models with NextN layers. Compares
# the bytes of the files they write, and their standard output except for the times in it.
#
#   scripts/compare-nextn.sh
#
# Environment: LLAMA_IMATRIX_BIN, the program to compare instead of the one built here; LLAMA_IMATRIX_NEXTN_TOOL, the tool
# to compare with instead of the repaired one.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$here/.."
theirs=${LLAMA_IMATRIX_NEXTN_TOOL:-$(tests/data/nextn/tool.sh | tail -n 1)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo run --quiet --release --no-default-features --example test-models -- "$work/models" >&2
ours=$work/ours
if [ -n "${LLAMA_IMATRIX_BIN:-}" ]; then
    cp "$LLAMA_IMATRIX_BIN" "$ours"
else
    target=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    cargo build --release --bin llama-imatrix >&2
    cp "$target/release/llama-imatrix" "$ours"
fi
cp "$work"/models/*.gguf "$work"/models/calibration.txt "$work/models/nextn/"
cases=0 different=0 expect=0

# compare FLAGS...: both, side by side. Theirs again while its log thread has lost the end of its standard output.
compare() {
    local name="$*" what="" try code_theirs=0 code_ours=0
    cases=$((cases + 1))
    cd "$work/models/nextn"
    rm -f theirs.gguf ours.gguf
    for try in 1 2 3 4 5 6 7 8 9 10; do
        code_theirs=0
        "$theirs" "$@" -f calibration.txt -t 2 -o theirs.gguf >theirs.out 2>theirs.err || code_theirs=$?
        case " $name " in *" --no-ppl "*) break ;; esac
        if [ "$code_theirs" != 0 ] || [ "$try" = 10 ] || grep -q '^Final estimate' theirs.out; then break; fi
    done
    "$ours" "$@" -f calibration.txt -t 2 -o ours.gguf >ours.out 2>ours.err || code_ours=$?
    [ "$code_theirs $code_ours" = "$expect $expect" ] || what="$what exit($code_theirs, $code_ours)"
    if [ "$expect" = 0 ]; then
        cmp -s theirs.gguf ours.gguf || what="$what file"
        # The lines and their order; empty ones at the end may have been lost.
        [ "$(grep -v ' minutes$' theirs.out)" = "$(grep -v ' minutes$' ours.out)" ] || what="$what stdout"
    fi
    [ -z "$what" ] || different=$((different + 1))
    printf '%-9s %s\n' "${what:+DIFFERS}${what:-same}" "$name"
}

whole="-m nextn.gguf --nextn -c 128"
pair="-m nextn-trunk.gguf --model-draft draft.gguf -c 128"
# Words on purpose.
# shellcheck disable=SC2086
for flags in "-b 128" "-b 64" "-b 48" "-b 200" "-b 128 -ub 48" "-b 128 --no-ppl" "-b 128 --process-output" \
    "-b 128 --chunk 2" "-b 128 --output-format dat"; do
    compare $whole --chunks 4 $flags
    compare $pair --chunks 4 $flags
done
# shellcheck disable=SC2086
{
    compare -m nextn.gguf --nextn -c 32 -b 1 --chunks 2
    compare -m nextn-trunk.gguf -md draft.gguf --nextn -c 128 -b 128 --chunks 4
    for model in nextn-head nextn-hybrid; do
        for flags in "-b 128" "-b 64 --process-output" "-b 48 --no-ppl"; do
            compare -m $model.gguf --nextn -c 128 --chunks 4 $flags
        done
    done
    compare -m nextn-trunk.gguf -md draft-head.gguf -c 128 -b 64 --chunks 4 --process-output
    compare -m nextn.gguf -c 128 -b 256 --chunks 4
    compare -m llama.gguf --nextn -c 128 -b 128 --chunks 3
    compare -m nextn-empty.gguf --nextn -c 128 -b 128 --chunks 3
    # What has to be refused.
    expect=1
    compare -m nextn-unused.gguf --nextn -c 128 -b 128
    compare -m nextn.gguf --nextn -c 128 -b 256
    compare -m draft.gguf -c 128 -b 128
    compare -m nextn.gguf -md draft.gguf -c 128 -b 128
    for draft in llama draft-cut draft-cut-header draft-split none draft-undeclared nextn nextn-trunk draft-two \
        draft-no-trunk draft-narrow draft-vocab; do
        compare -m nextn-trunk.gguf -md $draft.gguf -c 128 -b 128
    done
    compare -m trunk-undeclared.gguf -md draft.gguf -c 128 -b 128
    compare -m trunk-longer.gguf -md draft.gguf -c 128 -b 128
}

printf '%s of %s cases the same\n' $((cases - different)) "$cases"
[ "$different" = 0 ]
