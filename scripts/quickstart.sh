#!/usr/bin/env bash
# From a fresh checkout to an importance matrix: installs what is missing, builds, collects over the bundled model and
# text, and shows the matrix's statistics.
#
#   scripts/quickstart.sh [--with-upstream] [DIR]
#
#   DIR              folder of imatrix.gguf; the current folder by default
#   --with-upstream  also builds llama.cpp's tools and shows the effect of the matrix on a quantized model
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)
model=assets/quickstart/quickstart.gguf
text=assets/quickstart/calibration.txt

die() {
    printf 'quickstart: %s\n' "$*" >&2
    exit 1
}

usage() { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

parse() {
    folder=. with_upstream=no
    while [ $# -gt 0 ]; do
        case "$1" in
        --with-upstream) with_upstream=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        -*) die "unknown argument '$1'" ;;
        *) folder=$1 ;;
        esac
        shift
    done
    mkdir -p "$folder" || die "cannot make the folder $folder"
    folder=$(cd "$folder" && pwd)
}

# Prints what it runs, so that it can be repeated by hand.
run() {
    printf '\n$' >&2
    printf ' %s' "$@" >&2
    printf '\n' >&2
    "$@"
}

main() {
    parse "$@"
    "$here/setup.sh"
    # shellcheck source=scripts/env.sh
    . "$here/env.sh"
    # The matrix stores the name of its text as it was given: from here it is the same on every machine.
    cd "$root"
    for file in "$model" "$text"; do
        [ -f "$file" ] || die "$root/$file is missing from this checkout"
    done

    echo "Building (llama.cpp takes some minutes the first time)" >&2
    run cargo build --release
    local program="$CARGO_TARGET_DIR/release/llama-imatrix"
    run "$program" -m "$model" -f "$text" -c 512 -o "$folder/imatrix.gguf"
    run "$program" --show-statistics --in-file "$folder/imatrix.gguf"

    printf '\nThe program:            %s\nThe importance matrix:  %s\n' "$program" "$folder/imatrix.gguf"
    if [ "$with_upstream" = yes ]; then
        "$here/show-quantize.sh" "$folder/imatrix.gguf"
    fi
}

main "$@"
