#!/usr/bin/env bash
# Makes system calls of the program fail, one at a time, and checks that no file is lost and every failure is reported.
#
#   scripts/faults.sh [--full] [SCENE...]
#
# Scenes: save, merge, convert, state, resume, lens, convergence, logits, report, statistics (all). For each, the Nth open, read,
# write, fsync, truncate, rename, unlink and mmap on a file in the run's folder fails with EIO, ENOSPC, EINTR or ENOMEM, or
# transfers half of its bytes: for every N with --full (minutes), otherwise for a sample of 20 per scene. Calls on other files
# never fail: shared libraries, /proc, /sys, /dev.
#
# After each run every file must be unchanged, or new and whole. Exit code 0 means that all files are new; any other code
# comes with an error that names a file or the cause. Needs Linux on x86-64, a C compiler and python3. Builds the program
# unless LLAMA_IMATRIX names one. KEEP names a folder that keeps failed runs.
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
