#!/usr/bin/env bash
# Opens a report in a headless Chromium with the screen of a desktop and a phone, light and dark, and uses it. Prints failures.
#
#   scripts/check-report.sh [FOLDER]     screenshots go to FOLDER
#
# Needs chromium, node and npm (for playwright-core, which is installed in the cache). Without chromium or node it prints a
# line and succeeds; if CI is set, it fails.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/env.sh
. "$here/env.sh"
out=${1:-$(mktemp -d)}
mkdir -p "$out"
out=$(cd "$out" && pwd)

# Files from other projects have the checksums that their README lists.
for file in "$here"/../assets/report/*/*.js "$here"/../assets/report/*/*.css "$here"/../assets/report/*/*.ttf; do
    sum=$(sha256sum "$file" | cut -d' ' -f1)
    grep -q "$sum" "$here/../assets/report/README.md" || {
        echo "assets/report/README.md does not name the sum of $file"
        exit 1
    }
done

chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -z "$chromium" ] || ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "chromium, node or npm is not installed: skipped"
    [ -z "${CI:-}" ] || exit 1
    exit 0
fi
playwright="$LLAMA_IMATRIX_CACHE/playwright"
[ -d "$playwright/node_modules/playwright-core" ] || npm install --silent --no-fund --no-audit --prefix "$playwright" playwright-core@1

cd "$here/.."
cargo build --release --quiet --no-default-features --features cli
data=tests/data/collect
cp "$data/qwen3moe.gguf" "$out/first.gguf"
cp "$data/llama.gguf" "$out/second.gguf"
cp tests/data/report/first.lens.json "$out/first.lens.json"
cp tests/data/report/first.lens.json "$out/second.lens.json"
cp tests/data/report/estimated.csv tests/data/report/measured.csv "$out"
"$CARGO_TARGET_DIR/release/llama-imatrix" report "$out/first.gguf" "$out/second.gguf" \
    --recipe-curve "$out/estimated.csv" --recipe-curve "$out/measured.csv" -o "$out/report.html"
"$CARGO_TARGET_DIR/release/llama-imatrix" merge "$data/qwen3moe.gguf" -o "$out/filled.gguf" --fill-experts layer
"$CARGO_TARGET_DIR/release/llama-imatrix" report "$out/filled.gguf" -o "$out/filled.html"
PLAYWRIGHT="$playwright/" CHROMIUM="$chromium" node "$here/check-report.mjs" "$out/report.html" "$out" "$out/filled.html"
