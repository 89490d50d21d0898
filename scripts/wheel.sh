#!/usr/bin/env bash
# Builds the wheel that `pip install llama-imatrix` installs, and tries it in an empty virtual environment.
#
#   scripts/wheel.sh [DIR [LIBRARIES [CARGO FLAG...]]]
#
# DIR gets the wheel (dist). Without LIBRARIES the wheel has the program as it is built for this machine: to test the
# packing. scripts/release.sh passes the folder of llama.cpp's libraries and the flags of its build, for a wheel that runs on
# other machines.
#
# Needs python3 with venv; installs maturin from PyPI in the cache.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)
maturin_version=1.16.0

die() {
    echo "wheel: $*" >&2
    exit 1
}

case "${1:-}" in
-*)
    sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 1
    ;;
esac
dist=${1:-dist}
libraries=${2:-}
shift $(($# > 2 ? 2 : $#))
mkdir -p "$dist"
dist=$(cd "$dist" && pwd)
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$root"

venv="$LLAMA_IMATRIX_CACHE/maturin"
if [ "$("$venv/bin/maturin" --version 2>/dev/null)" != "maturin $maturin_version" ]; then
    python3 -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet "maturin==$maturin_version"
fi

# The name by which others load a library, and which it must therefore have: a wheel has no links.
name_of() {
    local name=""
    if [ "$(uname -s)" = Darwin ]; then
        name=$(otool -D "$1" | sed -n '2s#.*/##p')
    else
        name=$(readelf -d "$1" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
    fi
    echo "${name:-$(basename "$1")}"
}

data=target/wheel.data
rm -rf "$data"
mkdir -p "$data/data/share/man/man1"
cp assets/man/llama-imatrix.1 "$data/data/share/man/man1/"
flags=("$@")
if [ -n "$libraries" ]; then
    mkdir -p "$data/data/lib/llama-imatrix"
    while IFS= read -r library; do
        cp "$library" "$data/data/lib/llama-imatrix/$(name_of "$library")"
    done < <(find "$libraries" -maxdepth 1 -type f \( -name '*.so' -o -name '*.so.*' -o -name '*.dylib' \))
fi
# The C library that the program and its libraries need at least.
if [ "$(uname -s)" = Linux ]; then
    cargo build --release --quiet ${flags[@]+"${flags[@]}"} --bin llama-imatrix
    files=("$CARGO_TARGET_DIR/release/llama-imatrix")
    while IFS= read -r library; do files+=("$library"); done < <(find "$data" -name '*.so*')
    glibc=$(objdump -T "${files[@]}" 2>/dev/null | grep -o 'GLIBC_2\.[0-9]*' | sort -V | tail -n 1)
    flags+=(--compatibility "manylinux_${glibc/GLIBC_2./2_}")
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$venv/bin/maturin" build --release --quiet --auditwheel skip --out "$scratch/wheel" ${flags[@]+"${flags[@]}"}
wheel=$(find "$scratch/wheel" -name '*.whl')
[ -n "$wheel" ] || die "maturin built no wheel"

# As on another machine: nothing of this environment.
python3 -m venv "$scratch/venv"
clean() { env -i HOME="$scratch" PATH="$scratch/venv/bin:/usr/bin:/bin" "$@"; }
clean pip install --quiet --no-index "$wheel"
cd "$scratch"
clean llama-imatrix --version
head -c 20000 "$root/assets/quickstart/calibration.txt" >text
clean llama-imatrix -m "$root/assets/quickstart/quickstart.gguf" -f text -c 256 -o a.gguf >out 2>log ||
    die "the installed program failed: $(tail -n 5 log)"
grep -o 'Final estimate.*' out
clean python -m llama_imatrix stats a.gguf >table
[ -s table ] || die "python -m llama_imatrix printed no statistics"
clean pip uninstall --quiet --yes llama-imatrix
left=$(find venv -name '*imatrix*')
[ -z "$left" ] || die "files stay when it is uninstalled: $left"
mv "$wheel" "$dist/"
ls -l "$dist/$(basename "$wheel")"
