#!/usr/bin/env bash
# Builds the files that a loss of power may leave, and checks that the program reads each as an old file or a new one.
#
#   scripts/power.sh [SCENE...]
#
# Scenes: save, merge, convert, state, resume, lens, convergence, logits, report (all). The script records the writes, fsyncs,
# renames and unlinks of each run. At each of these calls it drops, tears or zeroes data that was not synced, and loses changes
# of the folder that were not synced, in any combination; scripts/faults/power.py has the rules. A resumed state must give the
# bytes of the whole run, and after the program has ended with exit code 0 everything must be new.
#
# Needs the same as scripts/faults.sh. LLAMA_IMATRIX names an existing program to use, KEEP a folder that keeps its files.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case "${1:-}" in
-h | --help)
    sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac
# shellcheck source=scripts/faults/prepare.sh
. "$here/faults/prepare.sh"
python3 "$here/faults/power.py" "$folder/calls" "$LLAMA_IMATRIX" "$folder/models/llama.gguf" \
    "$folder/models/calibration.txt" "$folder" "$@"
