#!/usr/bin/env bash
# Kills runs, fills their disk, makes it read-only, damages their files, and checks that nothing is lost.
#
#   scripts/torture.sh [N [SEED]]
#
# Kills N (100) runs over tiny models with SIGKILL at random instants and inside saves, several times each, and resumes them.
# Their files and standard output must have the bytes of uninterrupted runs. Then fills the disk during runs and makes it
# read-only (if a small tmpfs may be mounted: as root, or with sudo without a password), and truncates files at every 1,000th
# byte. Needs python3. Builds the program unless LLAMA_IMATRIX names one. That one must have the feature test-hooks:
# otherwise no run is killed inside a save.
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
    # The feature ends the program inside a save on request.
    cargo build --release --features test-hooks --bin llama-imatrix
    LLAMA_IMATRIX="$CARGO_TARGET_DIR/release/llama-imatrix"
fi
folder=$(mktemp -d "${TMPDIR:-/tmp}/torture.XXXXXX")
trap 'rm -rf "$folder"' EXIT
cargo run --release --quiet --no-default-features --example test-models -- "$folder/models"
# OpenMP's threads would spin while they wait, which costs seconds where other programs want the CPUs too.
export OMP_WAIT_POLICY=passive
python3 scripts/torture.py "$LLAMA_IMATRIX" "$folder" "$@"
