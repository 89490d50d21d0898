//! Compiles and binds what C alone cannot reach of llama.cpp: the shims in `vendor/tokenizer`, `vendor/nextn`,
//! `vendor/breakdown`, `vendor/memory` and `vendor/products`.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(nextn)");
    println!("cargo::rustc-check-cfg=cfg(breakdown)");
    println!("cargo::rustc-check-cfg=cfg(fresh_memory)");
    println!("cargo::rustc-check-cfg=cfg(products)");
    println!("cargo::rustc-check-cfg=cfg(amx_crashes)");
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "dynamic-backends")]
    find_libraries_beside_program();
    #[cfg(feature = "llama")]
    shims::build();
    #[cfg(all(feature = "cli", feature = "llama"))]
    warn_of_slow_build();
}

/// Warns of what `cargo install` outside the checkout would leave out: there is no `.cargo/config.toml`, and a build script
/// cannot set flags for llama.cpp's crate. Cargo prints warnings for the package that is installed, not for a dependency.
#[cfg(all(feature = "cli", feature = "llama"))]
fn warn_of_slow_build() {
    let var = |name| std::env::var(name).unwrap_or_default();
    println!("cargo::rerun-if-env-changed=GGML_RPC");
    let generic = var("CARGO_CFG_TARGET_ARCH") == "x86_64"
        && !cfg!(feature = "dynamic-backends")
        && !var("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "avx2");
    let without_rpc = matches!(var("GGML_RPC").as_str(), "" | "OFF" | "0");
    if generic {
        println!(
            "cargo::warning=this build is for any x86-64 CPU, and several times slower than one for this machine's CPU"
        );
    }
    if without_rpc {
        println!("cargo::warning=this build has no RPC backend: --rpc and the command worker are missing");
    }
    if generic || without_rpc {
        println!("cargo::warning=hint: RUSTFLAGS='-C target-cpu=native' GGML_RPC=ON cargo install llama-imatrix");
    }
}

/// llama.cpp is a library of its own then, which a release has beside the program, a distribution in `lib`.
#[cfg(feature = "dynamic-backends")]
fn find_libraries_beside_program() {
    let places: &[&str] = match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("linux") => &["$ORIGIN", "$ORIGIN/../lib/llama-imatrix"],
        Ok("macos") => &["@loader_path", "@loader_path/../lib/llama-imatrix"],
        _ => &[],
    };
    for place in places {
        println!("cargo::rustc-link-arg-bins=-Wl,-rpath,{place}");
    }
}

#[cfg(feature = "llama")]
mod shims {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::{env, fs};

    const TOKENIZER: &str = "vendor/tokenizer";
    const NEXTN: &str = "vendor/nextn";
    const BREAKDOWN: &str = "vendor/breakdown";
    const MEMORY: &str = "vendor/memory";
    const PRODUCTS: &str = "vendor/products";
    const TILE_CONFIG: &str = "vendor/amx/tile_config.cpp";

    /// Builds the shims and sets `cfg(nextn)`, `cfg(breakdown)` and `cfg(fresh_memory)`, if the headers of the llama.cpp
    /// that is linked can be found: not where it was installed by somebody else. The program then says so on `--nextn` and
    /// `--dry-run`, and uses more memory. The tokenizer's shim needs no headers and is always built.
    pub(super) fn build() {
        println!("cargo::rerun-if-changed={TOKENIZER}");
        println!("cargo::rerun-if-changed={NEXTN}");
        println!("cargo::rerun-if-changed={BREAKDOWN}");
        println!("cargo::rerun-if-changed={MEMORY}");
        println!("cargo::rerun-if-changed={PRODUCTS}");
        println!("cargo::rerun-if-changed={TILE_CONFIG}");
        compile(None, TOKENIZER, "tokenizer", &[]);
        bind(TOKENIZER, "tokenizer");
        let Some(llama) = llama_source() else {
            println!("cargo::warning=llama.cpp's src/llama-ext.h was not found: built without NextN");
            return;
        };
        if amx_crashes() {
            println!("cargo::rustc-cfg=amx_crashes");
        }
        compile(Some(&llama), NEXTN, "nextn", &["include", "src", "ggml/include"]);
        bind(NEXTN, "nextn");
        println!("cargo::rustc-cfg=nextn");
        compile(Some(&llama), BREAKDOWN, "breakdown", &["include", "src", "ggml/include"]);
        bind(BREAKDOWN, "breakdown");
        println!("cargo::rustc-cfg=breakdown");
        compile(Some(&llama), MEMORY, "memory", &["ggml/include", "ggml/src"]);
        bind(MEMORY, "memory");
        println!("cargo::rustc-cfg=fresh_memory");
        if has_products() {
            shim(Some(&llama), PRODUCTS, "products", &["ggml/include", "ggml/src"])
                .flag("-fopenmp")
                .compile("imatrix_products");
            bind(PRODUCTS, "products");
            println!("cargo::rustc-cfg=products");
        }
    }

    /// Whether there are kernels for the target, and ggml computes with an OpenMP team that they can share.
    fn has_products() -> bool {
        let target = |what| env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
        let openmp = env::var_os("CARGO_FEATURE_OPENMP").is_some();
        openmp && target("ARCH") == "x86_64" && target("OS") == "linux" && target("ENV") == "gnu"
    }

    fn compile(llama: Option<&Path>, folder: &str, name: &str, includes: &[&str]) {
        shim(llama, folder, name, includes).compile(&format!("imatrix_{name}"));
    }

    fn shim(llama: Option<&Path>, folder: &str, name: &str, includes: &[&str]) -> cc::Build {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").file(format!("{folder}/{name}.cpp")).include(folder);
        build.includes(llama.into_iter().flat_map(|llama| includes.iter().map(|include| llama.join(include))));
        build
    }

    fn bind(folder: &str, name: &str) {
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join(format!("{name}.rs"));
        bindgen::Builder::default()
            .header(format!("{folder}/{name}.h"))
            .allowlist_item(format!("(imatrix_{name}|IMATRIX_{})_.*", name.to_uppercase()))
            // The library's own.
            .blocklist_type(
                "llama_context|llama_batch_ext|llama_vocab|ggml_tensor|ggml_backend_buffer|ggml_backend_buffer_type",
            )
            .prepend_enum_name(false)
            .generate()
            .expect("the shim's header binds")
            .write_to_file(out)
            .expect("the build folder can be written");
    }

    /// llama.cpp's source folder: `CMake`, which llama-cpp-sys-2 builds it with, has noted it beside what it built.
    fn llama_source() -> Option<PathBuf> {
        let mut sources = cmake_caches().filter_map(|cache| noted(&cache, "CMAKE_HOME_DIRECTORY").map(PathBuf::from));
        sources.find(|source| source.join("src/llama-ext.h").is_file())
    }

    /// What `CMake` has noted of the build of llama.cpp.
    fn cmake_caches() -> impl Iterator<Item = String> {
        // `OUT/lib/cmake`, and where that is not told, `OUT`.
        let installed = env::var_os("DEP_LLAMA_GGML_CMAKE_DIR").map(|dir| Path::new(&dir).join("../.."));
        let root = env::var_os("DEP_LLAMA_ROOT").map(PathBuf::from);
        let outs = [installed, root].into_iter().flatten();
        outs.filter_map(|out| fs::read_to_string(out.join("build/CMakeCache.txt")).ok())
    }

    /// Lines are `NAME:TYPE=VALUE`.
    fn noted<'c>(cache: &'c str, name: &str) -> Option<&'c str> {
        let value = |line: &'c str| line.strip_prefix(name)?.strip_prefix(':')?.split_once('=').map(|(_, value)| value);
        cache.lines().find_map(value)
    }

    /// Whether ggml's compiler, with its flags, has dropped stores of the tile configuration: see `TILE_CONFIG`.
    fn amx_crashes() -> bool {
        if env::var("CARGO_CFG_TARGET_ARCH").as_deref() != Ok("x86_64") {
            return false;
        }
        let Some(cache) = cmake_caches().next() else { return false };
        let Some(compiler) = noted(&cache, "CMAKE_CXX_COMPILER") else { return false };
        let flags = ["CMAKE_CXX_FLAGS", "CMAKE_CXX_FLAGS_RELEASE"].map(|name| noted(&cache, name).unwrap_or_default());
        let flags = flags.into_iter().flat_map(str::split_whitespace);
        let made = Command::new(compiler).args(flags).args(["-mamx-tile", "-S", "-o", "-", TILE_CONFIG]).output();
        // A compiler without AMX fails, and ggml then has no code for it.
        let Some(made) = made.ok().filter(|made| made.status.success()) else { return false };
        let assembler = String::from_utf8_lossy(&made.stdout);
        assembler.contains("ldtilecfg")
            && !assembler.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "77")
    }
}
