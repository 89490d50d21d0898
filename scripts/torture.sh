#!/usr/bin/env bash
# Kills runs, fills their disk, takes it away, damages their files, and sees that nothing is lost.
#
#   scripts/torture.sh [N [SEED]]
#
# N (100) runs over tiny models are killed by SIGKILL at random instants and inside saves, again and again, and resumed:
# their files have to be, byte for byte, those of runs that were never stopped, and so has what they print. Then the disk
# is filled and made read-only under runs (where a small tmpfs may be mounted: as root, or with sudo that asks nothing), and
# files are cut short at every 1,000th byte. Needs python3; builds the program if it has to. LLAMA_IMATRIX names a program
# that is there already, built with the feature test-hooks: without it no run is killed inside a save.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case "${1:-}" in
-h | --help)
    sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac
cd "$here/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh
if [ -z "${LLAMA_IMATRIX:-}" ]; then
    # With what ends it inside a save on request.
    cargo build --release --features test-hooks --bin llama-imatrix
    LLAMA_IMATRIX="$CARGO_TARGET_DIR/release/llama-imatrix"
fi
folder=$(mktemp -d "${TMPDIR:-/tmp}/torture.XXXXXX")
trap 'rm -rf "$folder"' EXIT
cargo run --release --quiet --no-default-features --example test-models -- "$folder/models"
# OpenMP's threads would spin while they wait, which costs seconds where other programs want the CPUs too.
export OMP_WAIT_POLICY=passive
python3 scripts/torture.py "$LLAMA_IMATRIX" "$folder" "$@"
