#!/usr/bin/env bash
# Compiles a library that delays the exit of the program that loads it by EXIT_DELAY_MS milliseconds.
#
#   scripts/exit-delay.sh OUT.so
#
# llama.cpp's tools write their log, which includes their results, from a thread. They do not wait for it when they exit
# (ggml-org/llama.cpp #22142), so the last lines are lost, in most runs on a busy machine. Destructors of libraries run
# while that thread is still alive; this one sleeps. Load it by LD_PRELOAD, or DYLD_INSERT_LIBRARIES on macOS.
set -euo pipefail

[ $# -eq 1 ] || {
    echo "usage: exit-delay.sh OUT.so" >&2
    exit 2
}

"${CC:-cc}" -shared -fPIC -x c -o "$1" - <<'C'
#include <stdlib.h>
#include <unistd.h>

__attribute__((destructor)) static void delay(void) {
    const char * ms = getenv("EXIT_DELAY_MS");
    if (ms) {
        usleep(1000u * (unsigned) atoi(ms));
    }
}
C
