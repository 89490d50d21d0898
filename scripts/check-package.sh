#!/usr/bin/env bash
# Checks the package for crates.io: lists its files, compares its size with a limit, and builds it without C++ from the
# packed files alone.
#
#   scripts/check-package.sh
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)
# KiB, compressed.
limit=960

die() {
    echo "check-package: $*" >&2
    exit 1
}

if [ $# -gt 0 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 1
fi
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$root"

list=$(cargo package --list --allow-dirty)
for wanted in README.md LICENSE CHANGELOG.md Cargo.lock build.rs src/lib.rs src/bin/llama-imatrix/main.rs \
    vendor/nextn/nextn.cpp vendor/memory/memory.cpp assets/man/llama-imatrix.1 docs/README.md examples/collect.rs; do
    grep -qx "$wanted" <<<"$list" || die "$wanted is not in the package"
done
if strange=$(grep -E '^(scripts|tests|fuzz|benches|assets/quickstart/[a-z]|\.github|\.ci)/' <<<"$list"); then
    die "these do not belong in the package: $strange"
fi

if grep -q test-hooks <<<"$(cargo tree --edges features,normal)"; then
    die "what is installed must not have the feature test-hooks"
fi

tree=$(cargo tree --no-default-features --edges normal,build --prefix none)
if cpp=$(grep -E '^(cc|cmake|bindgen|llama-cpp-sys-2|clang-sys) ' <<<"$tree"); then
    die "without features there is to be no C++: $cpp"
fi

# Unpacks, builds the library and the examples that need no llama.cpp, and fails if the build writes into its sources.
cargo package --quiet --allow-dirty --no-default-features
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
size=$(($(wc -c <"$CARGO_TARGET_DIR/package/llama-imatrix-$version.crate") / 1024))
[ "$size" -le "$limit" ] || die "the package has $size KiB, more than $limit"
printf '%s\n' "$list"
printf '%d files, %d KiB; without features %d crates and no C++\n' "$(wc -l <<<"$list")" "$size" "$(sort -u <<<"$tree" | wc -l)"
