# shellcheck shell=bash
# Sets the folders of builds. Source this file; it prints nothing and installs nothing.
#
#   . scripts/env.sh && cargo build --release
#
# llama.cpp takes minutes to compile, so builds are kept outside the checkout, and all checkouts share them. To keep them
# elsewhere, set these variables before you source this file.

export LLAMA_IMATRIX_CACHE="${LLAMA_IMATRIX_CACHE:-$HOME/.cache/llama-imatrix}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$LLAMA_IMATRIX_CACHE/target}"

# rustup's default folder, which may not be on the PATH of a fresh shell yet.
if ! command -v cargo >/dev/null 2>&1 && [ -x "$HOME/.cargo/bin/cargo" ]; then
    export PATH="$HOME/.cargo/bin:$PATH"
fi

# llama-cpp-sys-2's build script passes every CMAKE_* variable on to CMake.
if command -v ccache >/dev/null 2>&1; then
    export CMAKE_C_COMPILER_LAUNCHER="${CMAKE_C_COMPILER_LAUNCHER:-ccache}"
    export CMAKE_CXX_COMPILER_LAUNCHER="${CMAKE_CXX_COMPILER_LAUNCHER:-ccache}"
fi

# Succeeds if ggml's code for AMX, built by the C++ compiler, would end the process: see the source that it compiles.
# shellcheck disable=SC2086 # the flags are words
llama_imatrix_amx_crashes() {
    "${CXX:-c++}" -O3 -mamx-tile ${CXXFLAGS:-} -S -o - \
        "$(dirname "${BASH_SOURCE[0]}")/../vendor/amx/tile_config.cpp" 2>/dev/null |
        awk '/ldtilecfg/ { loads = 1 } /(^|[^0-9])77($|[^0-9])/ { stores = 1 } END { exit !(loads && !stores) }'
}

# Has C++ compiled without the passes that drop them, where they do. build.rs asks the same of the finished build.
llama_imatrix_mend_amx() {
    if llama_imatrix_amx_crashes; then
        export CXXFLAGS="${CXXFLAGS:+$CXXFLAGS }-fno-tree-dse -fno-dse"
    fi
}

# Asked only where ggml would use AMX: the question takes a third of a second.
if grep -q amx_tile /proc/cpuinfo 2>/dev/null; then
    llama_imatrix_mend_amx
fi

# Prints the path of the program: $LLAMA_IMATRIX_BIN if it is set, else the one of this checkout, which it builds.
llama_imatrix_program() {
    if [ -n "${LLAMA_IMATRIX_BIN:-}" ]; then
        printf '%s\n' "$LLAMA_IMATRIX_BIN"
        return
    fi
    (cd "$(dirname "${BASH_SOURCE[0]}")/.." && cargo build --release >&2) &&
        printf '%s\n' "$CARGO_TARGET_DIR/release/llama-imatrix"
}

# Sets `work` to the folder $1, which is created, or to a temporary one, which is removed at the end of the script.
llama_imatrix_work_folder() {
    work=${1:-}
    if [ -z "$work" ]; then
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
    fi
    mkdir -p "$work"
}

# Prints the folder of libclang, or fails. The folders that bindgen searches itself come first.
llama_imatrix_libclang_dir() {
    local dir lib
    for dir in \
        "${LIBCLANG_PATH:-}" \
        /usr/lib /usr/lib64 /usr/local/lib /usr/local/lib64 /usr/lib/*-linux-gnu /usr/lib/llvm-*/lib /usr/lib64/llvm*/lib \
        /Library/Developer/CommandLineTools/usr/lib \
        /Applications/Xcode.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib \
        "$(llvm-config --libdir 2>/dev/null || true)" \
        /usr/lib/llvm*/lib /usr/local/llvm*/lib /opt/homebrew/opt/llvm/lib /usr/local/opt/llvm/lib /opt/llvm*/lib; do
        [ -n "$dir" ] || continue
        for lib in "$dir"/libclang.so "$dir"/libclang.so.* "$dir"/libclang-*.so "$dir"/libclang-*.so.* "$dir"/libclang.dylib; do
            case "$lib" in
            *libclang-cpp*) continue ;; # another library: the C++ interface
            esac
            if [ -e "$lib" ]; then
                printf '%s\n' "$dir"
                return 0
            fi
        done
    done
    return 1
}

# Only where bindgen would not look by itself: a variable that is set in one shell and not in another costs a rebuild.
if [ -z "${LIBCLANG_PATH:-}" ] && llama_imatrix_dir=$(llama_imatrix_libclang_dir); then
    case "$llama_imatrix_dir" in
    /usr/lib | /usr/lib64 | /usr/local/lib | /usr/local/lib64 | /usr/lib/*-linux-gnu | /usr/lib/llvm-*/lib | /Library/* | /Applications/*) ;;
    *) export LIBCLANG_PATH="$llama_imatrix_dir" ;;
    esac
fi
unset llama_imatrix_dir
