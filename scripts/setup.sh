#!/usr/bin/env bash
# Installs the missing tools of a build: cmake, make, a C++ compiler, libclang (bindgen reads C headers with it), ccache
# and git. With --upstream also ninja and Python with pip, for building llama.cpp's own tools. With --checks also the tools
# of .ci/run: shellcheck, zsh, fish, mandoc, cargo-deny and cargo-machete. If one of the latter cannot be installed, that is
# an error only if CI is set.
#
#   scripts/setup.sh [--upstream] [--checks]
#
# Uses apt, dnf, pacman, zypper, apk or brew, with sudo if needed, or prints what to install by hand. Checks Rust but never
# installs it. Quick and silent if nothing is missing. All output goes to standard error.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

load_env() {
    # shellcheck source=scripts/env.sh
    . "$here/env.sh"
}

have_cxx() { [ -n "${CXX:-}" ] || have c++ || have g++ || have clang++; }
have_ninja() { have ninja || have ninja-build; }
have_pip() {
    have python3 || return 1
    python3 -m pip --version >/dev/null 2>&1 || python3 -c 'import ensurepip, venv' 2>/dev/null
}

# What is missing, a word each, on one line.
missing() {
    local list=""
    have_cxx || list="$list c++"
    have make || have gmake || list="$list make"
    have cmake || list="$list cmake"
    llama_imatrix_libclang_dir >/dev/null || list="$list libclang"
    have git || list="$list git"
    if [ "$with_upstream" = yes ]; then
        have_ninja || list="$list ninja"
        have_pip || list="$list pip"
    fi
    printf '%s' "${list# }"
}

manager() {
    local candidate
    if [ "$(uname -s)" = Darwin ]; then
        if have brew; then printf 'brew'; fi
        return
    fi
    for candidate in apt-get dnf pacman zypper apk brew; do
        if have "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
}

# packages MANAGER WORD...: the packages that bring these words, a line each.
packages() {
    local pm=$1 word
    shift
    for word in "$@"; do
        case "$pm:$word" in
        apt-get:c++) echo g++ ;;
        apt-get:libclang) echo libclang-dev ;;
        apt-get:pip) printf '%s\n' python3 python3-pip python3-venv ;;
        apt-get:ninja | dnf:ninja) echo ninja-build ;;
        dnf:c++ | zypper:c++) echo gcc-c++ ;;
        dnf:libclang | zypper:libclang) echo clang-devel ;;
        dnf:pip | zypper:pip) printf '%s\n' python3 python3-pip ;;
        pacman:c++) echo gcc ;;
        pacman:libclang) echo clang ;;
        pacman:pip) printf '%s\n' python python-pip ;;
        apk:c++) printf '%s\n' build-base linux-headers ;;
        apk:libclang) printf '%s\n' clang-dev clang-libclang ;;
        apk:pip) printf '%s\n' python3 py3-pip ;;
        apk:ninja) echo samurai ;;
        brew:c++ | brew:make) ;; # from the command line tools, see require_apple_tools
        brew:libclang) echo llvm ;;
        brew:pip) echo python3 ;;
        *) echo "$word" ;;
        esac
    done
}

# What a person would type.
install_command() {
    case "$1" in
    pacman) echo "pacman -S" ;;
    apk) echo "apk add" ;;
    *) echo "$1 install" ;;
    esac
}

# install MANAGER PACKAGE...
install() {
    local pm=$1
    shift
    case "$pm" in
    apt-get)
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
        ;;
    dnf) as_root dnf install -y -q "$@" ;;
    pacman)
        # The second for a system that never fetched its lists, such as a container.
        as_root pacman -S --needed --noconfirm "$@" || as_root pacman -Sy --needed --noconfirm "$@"
        ;;
    zypper) as_root zypper --non-interactive install -y "$@" ;;
    apk) as_root apk add "$@" ;;
    brew) brew install --quiet "$@" ;;
    esac >&2
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

can_install() {
    case "$1" in
    "") return 1 ;;
    brew) return 0 ;; # runs as the user
    *) [ "$(id -u)" -eq 0 ] || have sudo ;;
    esac
}

require_apple_tools() {
    [ "$(uname -s)" = Darwin ] || return 0
    xcode-select -p >/dev/null 2>&1 ||
        die "Apple's command line tools are missing. Run: xcode-select --install"
}

# Word splitting below is meant: package names have no spaces, and bash 3.2 (macOS) has neither mapfile nor safe empty
# arrays.
# shellcheck disable=SC2046,SC2086
install_missing() {
    local words pm
    words=$(missing)
    [ -n "$words" ] || return 0
    pm=$(manager)
    if ! can_install "$pm"; then
        say "missing: $words"
        if [ -n "$pm" ]; then
            die "neither root nor sudo here. Have an administrator run: $(install_command "$pm")" $(packages "$pm" $words)
        fi
        die "no package manager known here (apt, dnf, pacman, zypper, apk, brew). Install these and run this again:" \
            "a C++17 compiler, make, cmake 3.14 or newer, libclang 9 or newer, git; for --upstream also ninja, python3 and pip"
    fi
    say "missing: $words; installing" $(packages "$pm" $words) "with $pm"
    install "$pm" $(packages "$pm" $words) || die "$pm failed (above)"
    # Saves minutes whenever something is built again, but nothing needs it.
    have ccache || install "$pm" ccache || say "no ccache: going on without it"
    hash -r
    words=$(missing)
    [ -z "$words" ] || die "still missing after the installation: $words"
}

# What .ci/run checks with. Checks are skipped where these are missing, but not where CI is set.
install_checks() {
    local tool pm
    pm=$(manager)
    for tool in shellcheck zsh fish mandoc; do
        have "$tool" && continue
        if can_install "$pm"; then install "$pm" "$tool" || true; fi
        hash -r
        have "$tool" || lacks "$tool"
    done
    for tool in cargo-deny cargo-machete; do
        have "$tool" && continue
        # Compiled here, which takes minutes: only where they have to be there.
        if [ -n "${CI:-}" ]; then cargo install --quiet --locked --target-dir "$LLAMA_IMATRIX_CACHE/$tool" "$tool" >&2 || true; fi
        hash -r
        have "$tool" || lacks "$tool"
    done
}

lacks() {
    [ -z "${CI:-}" ] || die "CI is set, and $1 could not be installed"
    say "no $1: checks with it are skipped"
}

# The minimum stands in Cargo.toml alone.
required_rust() { sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$here/../Cargo.toml"; }

# at_least HAVE WANT, both MAJOR.MINOR[.PATCH] (sort -V is not everywhere)
at_least() {
    local have_major=${1%%.*} have_rest=${1#*.} want_major=${2%%.*} want_rest=${2#*.}
    local have_minor=${have_rest%%.*} want_minor=${want_rest%%.*}
    [ "$have_major" -gt "$want_major" ] || { [ "$have_major" -eq "$want_major" ] && [ "$have_minor" -ge "$want_minor" ]; }
}

check_rust() {
    local want found
    want=$(required_rust)
    if ! have cargo || ! have rustc; then
        die "Rust $want or newer is needed. Get it from https://rustup.rs, open a new shell and run this again."
    fi
    found=$(rustc --version | sed 's/^rustc \([0-9.]*\).*/\1/')
    at_least "$found" "$want" ||
        die "Rust $want or newer is needed; $(command -v rustc) is $found. Run: rustup update stable"
}

main() {
    with_upstream=no
    with_checks=no
    while [ $# -gt 0 ]; do
        case "$1" in
        --upstream) with_upstream=yes ;;
        --checks) with_checks=yes ;;
        -h | --help)
            sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) die "unknown argument '$1'" ;;
        esac
        shift
    done
    load_env
    check_rust
    require_apple_tools
    install_missing
    if [ "$with_checks" = yes ]; then install_checks; fi
}

main "$@"
