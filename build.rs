//! Compiles and binds what C alone cannot reach of llama.cpp: the shims in `vendor/tokenizer`, `vendor/nextn`,
//! `vendor/breakdown`, `vendor/memory` and `vendor/products`.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(nextn)");
    println!("cargo::rustc-check-cfg=cfg(breakdown)");
    println!("cargo::rustc-check-cfg=cfg(fresh_memory)");
    println!("cargo::rustc-check-cfg=cfg(products)");
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
    use std::{env, fs};

    const TOKENIZER: &str = "vendor/tokenizer";
    const NEXTN: &str = "vendor/nextn";
    const BREAKDOWN: &str = "vendor/breakdown";
    const MEMORY: &str = "vendor/memory";
    const PRODUCTS: &str = "vendor/products";

    /// Builds the shims and sets `cfg(nextn)`, `cfg(breakdown)` and `cfg(fresh_memory)`, if the headers of the llama.cpp
    /// that is linked can be found: not where it was installed by somebody else. The program then says so on `--nextn` and
    /// `--dry-run`, and uses more memory. The tokenizer's shim needs no headers and is always built.
    pub(super) fn build() {
        println!("cargo::rerun-if-changed={TOKENIZER}");
        println!("cargo::rerun-if-changed={NEXTN}");
        println!("cargo::rerun-if-changed={BREAKDOWN}");
        println!("cargo::rerun-if-changed={MEMORY}");
        println!("cargo::rerun-if-changed={PRODUCTS}");
        compile(None, TOKENIZER, "tokenizer", &[]);
        bind(TOKENIZER, "tokenizer");
        let Some(llama) = llama_source() else {
            println!("cargo::warning=llama.cpp's src/llama-ext.h was not found: built without NextN");
            return;
        };
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
        // `OUT/lib/cmake`, and where that is not told, `OUT`.
        let installed = env::var_os("DEP_LLAMA_GGML_CMAKE_DIR").map(|dir| Path::new(&dir).join("../.."));
        let root = env::var_os("DEP_LLAMA_ROOT").map(PathBuf::from);
        let caches = [installed, root].into_iter().flatten().map(|out| out.join("build/CMakeCache.txt"));
        caches.filter_map(|cache| source_in(&cache)).find(|source| source.join("src/llama-ext.h").is_file())
    }

    fn source_in(cache: &Path) -> Option<PathBuf> {
        let text = fs::read_to_string(cache).ok()?;
        text.lines().find_map(|line| line.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL=")).map(PathBuf::from)
    }
}
