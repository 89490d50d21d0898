#!/bin/sh
# Makes upstream-options.txt: the options that llama.cpp's llama-imatrix (0.6.0) lists in its help, as data: spellings,
# shape of the value, environment variable, separated by tabs. Its explanations are not kept.
# Use: make.sh UPSTREAM_LLAMA_IMATRIX > upstream-options.txt
set -eu
"$1" --help | awk '
    function flush() { if (names != "") print names "\t" value "\t" env }
    /^example usage/ { exit }
    /^-[-a-zA-Z]/ {
        flush()
        names = ""; value = ""; env = ""
        head = $0
        # Explanations begin in column 40, on this line or on the next.
        if (length(head) > 40 && substr(head, 39, 2) ~ / $/) head = substr(head, 1, 40)
        n = split(head, words, " ")
        for (i = 1; i <= n; i++) {
            word = words[i]
            if (value == "" && word ~ /^--?[a-zA-Z]/) {
                sub(/,$/, "", word)
                names = names (names == "" ? "" : " ") word
            } else {
                value = value (value == "" ? "" : " ") word
            }
        }
    }
    /^ +\(env: [A-Z_]+\)$/ { env = $2; sub(/\)$/, "", env) }
    END { flush() }
'
