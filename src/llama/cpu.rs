//! Whether ggml was compiled for less than this CPU can do, or for what it cannot do.

use std::sync::OnceLock;

use super::Backend;
use super::log::{Level, say};

/// Vector instructions this CPU has and ggml was compiled without, by ggml's names.
///
/// `system_info` is [`Backend::system_info`](super::Backend::system_info)'s line. Nothing else would tell: such a build
/// works, and is slower by up to a factor of several.
#[must_use]
pub fn unused_vector_features(system_info: &str) -> Vec<&'static str> {
    unused(system_info, &detected())
}

fn unused(system_info: &str, detected: &[(&'static str, bool)]) -> Vec<&'static str> {
    detected.iter().filter(|(name, has)| *has && !is_compiled(system_info, name)).map(|(name, _)| *name).collect()
}

fn is_compiled(system_info: &str, name: &str) -> bool {
    system_info.split(['|', ':']).any(|item| {
        let mut words = item.split('=').map(str::trim);
        words.next() == Some(name) && words.next().is_some_and(|value| value != "0")
    })
}

/// Returns true if ggml uses AMX.
pub(super) fn has_amx() -> bool {
    is_compiled(&Backend::init().system_info(), "AMX_INT8")
}

/// Returns true if ggml uses AMX and its first product there would end the process, since its compiler has dropped stores
/// of AMX's configuration: see `build.rs`.
pub(crate) fn amx_is_broken() -> bool {
    cfg!(amx_crashes) && has_amx()
}

/// The same, but warns once.
pub(super) fn amx_crashes() -> bool {
    static CRASHES: OnceLock<bool> = OnceLock::new();
    *CRASHES.get_or_init(|| {
        let crashes = amx_is_broken();
        if crashes {
            say(
                Level::Warn,
                "the C++ compiler has dropped stores that ggml needs for AMX: weights are not repacked, as with --no-repack, since \
                 the first product would end the process\n\
                 hint: another compiler (GCC 12.2 does that), or CXXFLAGS='-fno-tree-dse -fno-dse'\n",
            );
        }
        crashes
    })
}

#[cfg(target_arch = "x86_64")]
fn detected() -> Vec<(&'static str, bool)> {
    use std::arch::is_x86_feature_detected as has;
    vec![
        ("AVX", has!("avx")),
        ("AVX2", has!("avx2")),
        ("FMA", has!("fma")),
        ("F16C", has!("f16c")),
        // ggml compiles its AVX-512 code for this set as a whole.
        ("AVX512", has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512cd")),
        ("AVX512_VBMI", has!("avx512vbmi")),
        ("AVX512_VNNI", has!("avx512vnni")),
        ("AVX512_BF16", has!("avx512bf16")),
        ("AVX_VNNI", has!("avxvnni") && !has!("avx512vnni")),
    ]
}

#[cfg(target_arch = "aarch64")]
fn detected() -> Vec<(&'static str, bool)> {
    use std::arch::is_aarch64_feature_detected as has;
    vec![
        ("NEON", has!("neon")),
        ("DOTPROD", has!("dotprod")),
        ("MATMUL_INT8", has!("i8mm")),
        ("SVE", has!("sve")),
        ("FP16_VA", has!("fp16")),
    ]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detected() -> Vec<(&'static str, bool)> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::unused;

    const INFO: &str = "CPU : SSE3 = 1 | AVX = 1 | AVX512_VNNI = 0 | OPENMP = 1 | ";

    #[test]
    fn names_what_the_cpu_has_and_the_build_lacks() {
        let detected = [("AVX", true), ("AVX2", true), ("AVX512", false), ("AVX512_VNNI", true), ("SSE3", true)];
        assert_eq!(unused(INFO, &detected), ["AVX2", "AVX512_VNNI"]);
    }

    #[test]
    fn a_name_is_not_found_inside_a_longer_one() {
        assert_eq!(unused("CPU : AVX512_VNNI = 1 | ", &[("AVX512", true)]), ["AVX512"]);
    }

    #[test]
    fn nothing_unused_when_all_is_compiled_in() {
        assert!(unused(INFO, &[("SSE3", true), ("AVX", true)]).is_empty());
    }
}
