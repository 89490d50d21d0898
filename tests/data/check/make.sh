#!/usr/bin/env bash
# Writes quantize.txt: what llama.cpp's llama-quantize (scripts/upstream.sh) did with the models and matrices of
# tests/support/check.rs. Fails if our prediction differs.
#
# A line "types MODEL TYPE .." has the type of each tensor, in the order in which they are written ("q4_K*3": three in a row).
# A line "matrix MODEL FILE RESULT: TYPE .." lists the types for which it accepted the matrix, or refused it: the reason
# and the tensor, or "-".
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$here/../../../scripts/check-quantize.sh" --golden "$here/quantize.txt"
