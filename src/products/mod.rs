//! Matrix products that are faster than ggml's on a CPU, to the bit.
//!
//! [`register`] adds a backend to ggml that llama.cpp uses in each context without further settings, as it uses BLAS.
//! The backend computes products with weights in host memory whose type has a kernel here: `Q8_0`, F16, BF16, `Q4_K`, `Q5_K` and
//! `Q6_K`; of the weights that ggml has laid out in another way when it loaded the model, `Q4_K`, and for AMX `Q8_0` and F16.
//! ggml computes everything else. The weights are used in place, without a copy. Results have ggml's bits: before a kernel is used, small
//! products of its kind are compared with ggml's on this machine. If one bit differs, ggml computes this kind.
//!
//! ```
//! use llama_imatrix::products;
//!
//! for choice in products::register() {
//!     println!("{}: {}", choice.kind(), choice.kernel().unwrap_or("ggml"));
//! }
//! // Models that are loaded and contexts that are created from here on are faster.
//! ```
//!
//! Any program that uses llama.cpp needs only this call.
//!
//! There are kernels for x86-64 Linux with AVX2 or more. Elsewhere, and without the feature `openmp`, [`register`] does nothing
//! and returns no choices. Do not call it if a GPU computes large batches
//! with weights in host memory: ggml would compute these batches on the CPU.
#![allow(unsafe_code)] // Kernels and what ggml calls; every block states the invariant it relies on.

#[cfg(products)]
mod backend;
#[cfg(products)]
mod check;
#[cfg(products)]
mod columns;
#[cfg(products)]
mod cpu;
#[cfg(products)]
mod ffi;
#[cfg(products)]
mod kernel;
#[cfg(products)]
mod kind;
#[cfg(products)]
mod memory;
#[cfg(products)]
mod product;
#[cfg(products)]
mod state;
#[cfg(products)]
mod team;
#[cfg(products)]
mod trial;
mod types;
#[cfg(not(products))]
mod without;

#[cfg(products)]
pub use kind::{Choice, Kind};
pub use types::{Outcome, Shape, Values};
#[cfg(not(products))]
pub use without::{Choice, Kind};

/// Registers the backend with ggml, on the first call, and returns what computes each kind of product on this machine.
///
/// Call it before other threads use llama.cpp, since ggml does not lock its registry. It affects all models that the
/// process loads and all contexts that it creates afterwards.
#[allow(clippy::must_use_candidate, reason = "it is called for its effect")]
pub fn register() -> &'static [Choice] {
    #[cfg(products)]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        let _ = crate::llama::Backend::init();
        let choices = kind::choices();
        if choices.iter().any(|choice| choice.kernel().is_some()) {
            // SAFETY: Backend::init() has filled the registry, and `Once` makes this the only call.
            ONCE.call_once(|| unsafe { backend::register(crate::llama::PRODUCTS) });
        }
        choices
    }
    #[cfg(not(products))]
    &[]
}

/// Returns the names of the kernels for a kind of product that this CPU can run, the fastest first.
#[must_use]
pub fn kernels(kind: Kind) -> Vec<&'static str> {
    #[cfg(products)]
    return kind.kernels().map(|kernel| kernel.name).collect();
    #[cfg(not(products))]
    match kind {}
}

/// Computes a random product of a kind with ggml and with the kernel of that name, and compares the bits. The same seed
/// gives the same operands. Returns `None` if this CPU cannot run a kernel of that name for the kind, the kernel cannot
/// compute the shape, or there is no memory.
#[must_use]
pub fn compare(
    kind: Kind,
    kernel: &str,
    shape: Shape,
    values: Values,
    seed: u64,
    threads: usize,
    repetitions: usize,
) -> Option<Outcome> {
    #[cfg(products)]
    {
        let _ = crate::llama::Backend::init();
        let kernel = kind.kernels().find(|candidate| candidate.name == kernel)?;
        if !shape.is_valid() || !kernel.fits(shape.k, shape.rows, shape.tokens) {
            return None;
        }
        let mut trial = trial::Trial::new(kind, kernel, shape, threads)?;
        trial.fill(values, seed);
        let mut best = trial.run()?;
        for _ in 1..repetitions {
            let outcome = trial.run()?;
            best.apart = best.apart.max(outcome.apart);
            best.ggml = best.ggml.min(outcome.ggml);
            best.kernel = best.kernel.min(outcome.kernel);
        }
        Some(best)
    }
    #[cfg(not(products))]
    {
        let _ = (kernel, shape, values, seed, threads, repetitions);
        match kind {}
    }
}
