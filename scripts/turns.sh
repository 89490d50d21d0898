#!/usr/bin/env bash
# Lanes take turns in thousands of orders: shuttle's scheduler runs src/collect/tests/turns.rs.
#
#   scripts/turns.sh
#
# Each order must give the bits of one lane, and none may end in a deadlock. Needs no llama.cpp: half a minute.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$here/.."
# A build of its own: the flag is every crate's. The tree's own flags are for the program.
export RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR="$LLAMA_IMATRIX_CACHE/turns"
cargo test --release --no-default-features --lib collect::tests::turns "$@"
