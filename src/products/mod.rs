//! Matrix products that are faster than ggml's on a CPU, to the bit.
//!
//! [`register`] adds a backend to ggml, of the kind that llama.cpp takes into each context by itself (as it does BLAS). The
//! backend computes products with weights in host memory whose type has a kernel here; everything else stays with ggml. The
//! weights are used where they are, without a copy. Results have ggml's bits: before a kernel is used, small products of its
//! kind are computed by ggml as well, on this machine, and one bit apart leaves the kind to ggml.
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
//! There are kernels for x86-64 Linux with AVX2 or more. Elsewhere, without the feature `openmp`, and with
//! `dynamic-backends`, [`register`] does nothing and returns no choices. Where a GPU is in use that computes large batches with weights in host
//! memory, register nothing: ggml would have the CPU compute those batches.
#![allow(unsafe_code)] // Kernels and what ggml calls; every block states the invariant it relies on.

#[cfg(products)]
mod backend;
#[cfg(products)]
mod check;
#[cfg(products)]
mod columns;
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
/// Call it before a model is loaded. It affects all models that the process loads and all contexts that it creates
/// afterwards.
#[allow(clippy::must_use_candidate, reason = "it is called for its effect")]
pub fn register() -> &'static [Choice] {
    #[cfg(products)]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        let _ = crate::llama::Backend::init();
        let choices = kind::choices();
        if choices.iter().any(|choice| choice.kernel().is_some()) {
            // SAFETY: Backend::init() has filled the registry.
            ONCE.call_once(|| unsafe { backend::register(crate::llama::PRODUCTS) });
        }
        choices
    }
    #[cfg(not(products))]
    &[]
}

/// The names of the kernels for a kind of product that this CPU can run, the fastest first.
#[must_use]
pub fn kernels(kind: Kind) -> Vec<&'static str> {
    #[cfg(products)]
    return kind.kernels().map(|kernel| kernel.name).collect();
    #[cfg(not(products))]
    match kind {}
}

/// Computes a random product of a kind by ggml and by the kernel of that name, and compares the bits. The same seed gives the
/// same operands. Returns `None` if this CPU cannot run a kernel of that name for the kind, or there is no memory.
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
        if !shape.k.is_multiple_of(kernel.step) {
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
