#!/usr/bin/env bash
# Holds logit lens, logit prism and layer similarity of the bundled model against a forward pass in numpy.
#
#   scripts/check-lens.sh
#
# Needs python3 with venv; numpy, gguf and tokenizers go into the cache. Without python3 it says so and is content.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$here/.."
if ! command -v python3 >/dev/null; then
    echo "python3 is not installed: skipped"
    exit 0
fi
venv="$LLAMA_IMATRIX_CACHE/check-lens"
if [ ! -e "$venv/ready" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check numpy gguf tokenizers
    touch "$venv/ready"
fi

cargo build --release --quiet
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
quickstart=assets/quickstart
"$CARGO_TARGET_DIR/release/llama-imatrix" -m $quickstart/quickstart.gguf -f $quickstart/calibration.txt -c 512 --chunks 3 \
    --no-ppl --logit-lens --logit-prism --layer-similarity --lens-tokens 512 -o "$folder/imatrix.gguf" -lv 1
"$venv/bin/python" scripts/check_lens.py $quickstart/quickstart.gguf $quickstart/calibration.txt "$folder/imatrix.lens.json"
