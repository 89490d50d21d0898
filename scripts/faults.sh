#!/usr/bin/env bash
# Fails system calls under the program, one at a time, and sees that no file is lost and no failure silent.
#
#   scripts/faults.sh [--full] [SCENE...]
#
# Scenes: save, merge, convert, state, resume, lens, report, statistics (all). For each, the Nth open, read, write, fsync,
# truncate, rename, unlink and mmap on a file of the run's folder fails with EIO, ENOSPC, EINTR or ENOMEM, or moves half of
# its bytes: for every N with --full (minutes), else for a sample of 20 per scene. Calls on other files are never failed:
# loading shared libraries, /proc, /sys, /dev.
#
# After each, every file must be as it was before or whole and new; exit code 0 means that all is new; another comes with
# an error that names a file or the cause. Needs Linux on x86-64, a C compiler and python3; builds the program if it has to.
# LLAMA_IMATRIX names a program that is there already, KEEP a folder in which failed runs stay.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
sample=20
case "${1:-}" in
-h | --help)
    sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
--full)
    sample=0
    shift
    ;;
esac
# shellcheck source=scripts/faults/prepare.sh
. "$here/faults/prepare.sh"
python3 "$here/faults/faults.py" "$folder/calls" "$LLAMA_IMATRIX" "$folder/models/llama.gguf" \
    "$folder/models/calibration.txt" "$folder" "$sample" "$@"
