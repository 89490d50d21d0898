//! Compiles and binds what C alone cannot reach of llama.cpp: the shim in `vendor/nextn`.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(nextn)");
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "llama")]
    nextn::build();
}

#[cfg(feature = "llama")]
mod nextn {
    use std::path::{Path, PathBuf};
    use std::{env, fs};

    const SHIM: &str = "vendor/nextn";

    /// Builds the shim and sets `cfg(nextn)`, if the headers of the llama.cpp that is linked can be found: not where it
    /// was installed by somebody else. The program then says so on `--nextn`.
    pub(super) fn build() {
        println!("cargo::rerun-if-changed={SHIM}");
        let Some(llama) = llama_source() else {
            println!("cargo::warning=llama.cpp's src/llama-ext.h was not found: built without NextN");
            return;
        };
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .file(format!("{SHIM}/nextn.cpp"))
            .include(SHIM)
            .includes(["include", "src", "ggml/include"].map(|folder| llama.join(folder)))
            .compile("imatrix_nextn");
        bind();
        println!("cargo::rustc-cfg=nextn");
    }

    fn bind() {
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("nextn.rs");
        bindgen::Builder::default()
            .header(format!("{SHIM}/nextn.h"))
            .allowlist_function("imatrix_nextn_.*")
            .allowlist_var("IMATRIX_NEXTN_.*")
            // The library's own.
            .blocklist_type("llama_context|llama_batch_ext")
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
