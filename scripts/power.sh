#!/usr/bin/env bash
# Builds the files that a loss of power may leave, and has the program read each: it must find an old file or a new one.
#
#   scripts/power.sh [SCENE...]
#
# Scenes: save, merge, convert, state, resume, lens, report (all). Each run's writes, fsyncs, renames and unlinks are
# recorded. At every one of them, what was not synced is dropped, torn or filled with zeros, and changes of the folder that
# were not synced are lost in any combination: scripts/faults/power.py says by which rules. A state must resume to the bytes
# of the whole run, and once the program has ended with exit code 0 everything must be new.
#
# Needs what scripts/faults.sh needs. LLAMA_IMATRIX names a program that is there already, KEEP a folder for its files.
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
