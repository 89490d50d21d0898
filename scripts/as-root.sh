# shellcheck shell=bash
# For scripts that need root. Source this file first, with the script's arguments: it prints the comment at the script's top
# for --help, starts the script again with sudo unless it is root's, and enters the checkout with the folders of builds set.

case "${1:-}" in
-h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[1]}"
    exit 0
    ;;
esac
if [ "$(id -u)" -ne 0 ]; then
    exec sudo --preserve-env=CARGO_TARGET_DIR,LLAMA_IMATRIX_CACHE,LLAMA_IMATRIX,CI,HOME,PATH "${BASH_SOURCE[1]}" "$@"
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
# shellcheck disable=SC2034 # used by the scripts
root=$PWD
# shellcheck source=scripts/env.sh
. scripts/env.sh

# Sets LLAMA_IMATRIX to the program, built here unless it is set.
need_program() {
    [ -z "${LLAMA_IMATRIX:-}" ] || return 0
    cargo build --release --bin llama-imatrix
    LLAMA_IMATRIX="$CARGO_TARGET_DIR/release/llama-imatrix"
}
