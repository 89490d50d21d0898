#!/usr/bin/env bash
# Tests sums on a Vulkan device without a GPU: Mesa's lavapipe, which computes on the CPU. Runs the tests of
# tests/program/devices.rs, which print a table of deviations and times.
#
#   scripts/test-vulkan.sh [--cold] [NAME]     NAME: only the tests whose names contain it
#
#   --cold     delete Mesa's shader cache first, so the first run of each model compiles its pipelines
#
# Needs Debian 12. Installs nothing: Mesa, loader, headers and glslc are downloaded with apt and unpacked into
# ~/.cache/llama-imatrix/vulkan. The shader cache is there too. llama.cpp is compiled in a separate folder.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'test-vulkan: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

cold=no
name=""
for argument in "$@"; do
    case "$argument" in
    --cold) cold=yes ;;
    -*)
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 2
        ;;
    *) name=$argument ;;
    esac
done

target=${CARGO_TARGET_DIR:-}
# shellcheck source=scripts/env.sh
. scripts/env.sh
export CARGO_TARGET_DIR="${target:-$LLAMA_IMATRIX_CACHE/target-vulkan}"
folder=$LLAMA_IMATRIX_CACHE/vulkan
sdk=$folder/root/usr
machine=$(uname -m)-linux-gnu
libraries=$sdk/lib/$machine

# The address from which this system installs packages of Debian 12.
mirror() {
    # shellcheck disable=SC2016 # apt-get expands these
    apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 2>/dev/null | sed -n 's/^bookworm //p' | head -n 1
}

# Debian 12 has too old a Mesa, which its backports replace, and too old headers, which work from Debian 13. Its loader and
# its glslc are new enough.
write_apt_conf() {
    local apt=$1 from suite
    from=$(mirror)
    [ -n "$from" ] || die "this system does not install packages of Debian 12, so nothing was tested"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    for suite in bookworm bookworm-updates bookworm-backports trixie; do
        printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$from" "$suite"
    done >"$apt/sources.list"
    printf 'Package: *\nPin: release n=trixie\nPin-Priority: 50\n' >"$apt/preferences"
    cat >"$apt/apt.conf" <<EOF
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "$apt/preferences";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "$apt/lists";
Dir::Cache "$apt";
Debug::NoLocking "true";
APT::Sandbox::User "root";
EOF
}

# Downloads the packages, with those dependencies that this system has not installed, and unpacks them.
unpack() {
    local apt=$folder/apt package
    [ ! -e "$folder/root" ] || return 0
    command -v apt-get >/dev/null 2>&1 || die "there is no apt-get here, so nothing was tested: this needs Debian 12"
    say "downloading Mesa, Vulkan's loader and headers, and glslc into '$folder'"
    rm -rf "$apt" "$folder/root.part"
    write_apt_conf "$apt"
    apt_get() { apt-get -qq -c "$apt/apt.conf" "$@" >&2; }
    {
        apt_get update &&
            apt_get install --yes --download-only --reinstall --no-install-recommends -t bookworm-backports \
                mesa-vulkan-drivers libvulkan1 glslc &&
            (cd "$apt/archives" && apt_get download libvulkan-dev/trixie spirv-headers/trixie)
    } || die "the packages of Debian 12 and 13 cannot be downloaded (above), so nothing was tested"
    for package in "$apt"/archives/*.deb; do
        dpkg-deb -x "$package" "$folder/root.part"
    done
    # Where FindVulkan.cmake and the linker search.
    ln -s "$machine/libvulkan.so.1" "$folder/root.part/usr/lib/libvulkan.so"
    mv "$folder/root.part" "$folder/root"
    rm -rf "$apt"
}

# Vulkan's loader reads this file, and finds the driver in the folder instead of the system's.
use_lavapipe() {
    local from
    from=$(find "$sdk/share/vulkan/icd.d" -name 'lvp_icd*.json')
    sed "s|\"library_path\": *\"[^\"]*\"|\"library_path\": \"$libraries/libvulkan_lvp.so\"|" "$from" >"$folder/lvp_icd.json"
    export VK_DRIVER_FILES="$folder/lvp_icd.json" VK_ICD_FILENAMES="$folder/lvp_icd.json"
    export LD_LIBRARY_PATH="$libraries:$folder/root/lib/$machine${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export MESA_SHADER_CACHE_DIR="$folder/shaders"
    # ggml uses no CPU unless it is named.
    export GGML_VK_VISIBLE_DEVICES=0
}

mkdir -p "$folder"
scripts/setup.sh
unpack
use_lavapipe
[ "$cold" = no ] || rm -rf "$folder/shaders"
mkdir -p "$folder/shaders"

say "building with the feature vulkan in '$CARGO_TARGET_DIR' (the first time for tens of minutes)"
export VULKAN_SDK="$sdk"
run_tests() { cargo test --release --features vulkan --test integration "$@"; }
run_tests --no-run
"$CARGO_TARGET_DIR/release/llama-imatrix" --list-devices | grep -F Vulkan0 >&2 || die "lavapipe is not among the devices"

export LLAMA_IMATRIX_TEST_DEVICE=Vulkan0
say "testing on $(nproc) cores; shader cache: $(du -sh "$folder/shaders" | cut -f1)"
result=$(mktemp)
trap 'rm -f "$result"' EXIT
run_tests "program::devices::$name" -- --ignored --nocapture --test-threads 1 | tee "$result"
! grep -q '^test result: ok. 0 passed' "$result" || die "no test is called '$name'"
