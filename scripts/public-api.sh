#!/usr/bin/env bash
# Compares the library's public API with docs/public-api.txt, and shows the differences.
#
#   scripts/public-api.sh            fails on any difference; commit an intended one
#   scripts/public-api.sh --update   writes the file again
#
# A line that is removed or changed breaks builds of users: it requires a new major version (before 1.0, a minor one).
# The list comes from rustdoc's JSON, which is not stable. So it is made with the toolchain named below, by rustup if
# another is in use.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)
toolchain=1.95.0

update=no
case "${1:-}" in
"") ;;
--update) update=yes ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    [ "$1" = --help ] || [ "$1" = -h ] || exit 1
    exit 0
    ;;
esac

"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$root"
case "$(rustc --version)" in
"rustc $toolchain "*) ;;
*)
    export RUSTUP_TOOLCHAIN=$toolchain
    rustc --version >/dev/null || {
        echo "public-api: needs Rust $toolchain. Run: rustup toolchain install $toolchain --profile minimal" >&2
        exit 1
    }
    ;;
esac

# For rustdoc alone: set for all, it would have crates compile again that look at it in their build scripts.
cat >"$CARGO_TARGET_DIR/rustdoc-json" <<'EOF'
#!/bin/sh
RUSTC_BOOTSTRAP=1 exec rustdoc "$@"
EOF
chmod +x "$CARGO_TARGET_DIR/rustdoc-json"
RUSTDOC=$CARGO_TARGET_DIR/rustdoc-json \
    cargo rustdoc --quiet --release --lib -- -Z unstable-options --output-format json --cap-lints allow
tool=$LLAMA_IMATRIX_CACHE/public-api
CARGO_TARGET_DIR=$tool cargo build --quiet --manifest-path scripts/public-api/Cargo.toml

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$tool/debug/list-public-api" "$CARGO_TARGET_DIR/doc/llama_imatrix.json" >"$scratch/public-api.txt"
if [ "$update" = yes ]; then
    cp "$scratch/public-api.txt" docs/public-api.txt
    echo "docs/public-api.txt: $(wc -l <docs/public-api.txt) lines"
elif diff -u docs/public-api.txt "$scratch/public-api.txt"; then
    echo "the public API is that of docs/public-api.txt: $(wc -l <docs/public-api.txt) lines"
else
    echo "public-api: the public API has changed. If that is meant: scripts/public-api.sh --update, and CHANGELOG.md" >&2
    exit 1
fi
