#!/usr/bin/env bash
# Runs lanes in thousands of orders: shuttle's scheduler runs src/collect/tests/turns.rs.
#
#   scripts/turns.sh
#
# Each order must give the same bits as one lane, and none may end in a deadlock. Needs no llama.cpp. Half a minute.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$here/.."
# A separate build, since the flag applies to every crate. The flags of this checkout are for the program.
export RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR="$LLAMA_IMATRIX_CACHE/turns"
cargo test --release --no-default-features --lib collect::tests::turns "$@"
