//! The state of one backend, and the computation of a product.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::columns::Columns;
use super::cpu;
use super::kernel::{LARGEST_TILE, LONGEST_SIDE};
use super::memory::{Bytes, Shared};
use super::product::{Product, Routes};
use super::team;

/// Bytes of panels that a thread lays out at once, and of columns that it then multiplies with all of them: together
/// they fit a core's second cache.
const PANEL_BYTES: usize = 96 << 10;
const COLUMN_BYTES: usize = 160 << 10;
/// Panels of long rows that are laid out at once on CPUs with AVX-512, whose second cache has 1 MiB or more, and most bytes
/// of them. The columns, which may not fit there, are read once for all of them.
const LONG_PANELS: usize = 8;
const LONG_PANEL_BYTES: usize = 512 << 10;
/// Bytes of panels that are multiplied with one column after another: they stay in a core's first cache meanwhile, and
/// each column is read once for all of them.
const GROUP_BYTES: usize = 20 << 10;

/// A backend: one per context of llama.cpp.
pub(super) struct State {
    threads: usize,
    columns: Columns,
    /// The routed rows, expert by expert.
    cells: Vec<Cell>,
    jobs: Vec<Job>,
    workspaces: Vec<Workspace>,
}

/// A column and where its products go.
#[derive(Clone, Copy)]
struct Cell {
    column: *const u8,
    output: *mut f32,
}

/// Rows of one matrix times the columns that are multiplied with it.
struct Job {
    matrix: *const u8,
    rows: std::ops::Range<usize>,
    cells: std::ops::Range<usize>,
}

/// Buffers of one thread.
#[derive(Default)]
struct Workspace {
    panels: Bytes,
    scratch: Bytes,
}

impl State {
    pub(super) fn new() -> Self {
        Self { threads: 1, columns: Columns::default(), cells: Vec::new(), jobs: Vec::new(), workspaces: Vec::new() }
    }

    /// Sets the number of threads and drops all cached columns. Called before each evaluation of a graph.
    pub(super) fn set_threads(&mut self, threads: usize) {
        self.threads = threads.max(1);
        self.columns.forget();
    }

    /// Computes a product. Returns false if that is impossible: a row is routed to no expert, or a thread panicked.
    ///
    /// # Safety
    /// The sources of the product's node must be computed, and nothing else may use the node until this returns.
    pub(super) unsafe fn compute(&mut self, product: &Product) -> bool {
        // SAFETY: our own contract.
        unsafe { self.columns.hold(product, self.threads) && self.list_cells(product) && self.multiply(product) }
    }

    /// Lists the columns per matrix, and cuts the rows of each matrix into jobs.
    ///
    /// # Safety
    /// As for [`compute`](Self::compute).
    unsafe fn list_cells(&mut self, product: &Product) -> bool {
        self.jobs.clear();
        self.cells.clear();
        let (columns, stride) = self.columns.layout();
        let cell = |column: usize, output: usize| Cell {
            column: columns.wrapping_add(column * stride),
            output: product.output.wrapping_add(output).cast(),
        };
        let Some(routes) = product.routes else {
            self.cells.extend((0..product.input.rows[0]).map(|j| cell(j, j * product.output_bytes[0])));
            self.cut(product, 0, 0..self.cells.len());
            return true;
        };
        // SAFETY: our own contract.
        let Some(ends) = (unsafe { ends_per_expert(&routes, product.matrices) }) else { return false };
        self.cells.resize(routes.tokens * routes.experts_per_token, cell(0, 0));
        let mut next: Vec<usize> = std::iter::once(0).chain(ends.iter().copied()).collect();
        for token in 0..routes.tokens {
            for slot in 0..routes.experts_per_token {
                // SAFETY: our own contract; ends_per_expert() has found all experts to be in range.
                let expert = unsafe { routes.expert(token, slot) } as usize;
                let column = slot % product.input.rows[0] + token * product.input.rows[0];
                self.cells[next[expert]] =
                    cell(column, slot * product.output_bytes[0] + token * product.output_bytes[1]);
                next[expert] += 1;
            }
        }
        let mut start = 0;
        for (expert, end) in ends.into_iter().enumerate() {
            if start < end {
                self.cut(product, expert, start..end);
            }
            start = end;
        }
        true
    }

    fn cut(&mut self, product: &Product, matrix: usize, cells: std::ops::Range<usize>) {
        let kernel = product.kernel;
        let panels = panels_at_once(product);
        // Small enough that all threads finish at about the same time.
        let fair = product.rows.div_ceil(self.threads * 4).div_ceil(kernel.rows).max(1);
        let step = panels.min(fair) * kernel.rows;
        for first in (0..product.rows).step_by(step) {
            self.jobs.push(Job {
                matrix: product.matrix.wrapping_add(matrix * product.matrix_bytes),
                rows: first..product.rows.min(first + step),
                cells: cells.clone(),
            });
        }
    }

    /// # Safety
    /// As for [`compute`](Self::compute).
    unsafe fn multiply(&mut self, product: &Product) -> bool {
        let kernel = product.kernel;
        self.workspaces.resize_with(self.threads, Workspace::default);
        for workspace in &mut self.workspaces {
            workspace.panels.at_least(panels_at_once(product) * panel_bytes(product));
            workspace.scratch.at_least((kernel.scratch)(product.k) * 4);
        }
        let shared = Shared((&raw const *self).cast_mut());
        let product = Shared((&raw const *product).cast_mut());
        let workspaces = Shared(self.workspaces.as_mut_ptr());
        let next = AtomicUsize::new(0);
        let plain = self.columns.are_plain();
        team::run(self.threads, |thread, _| {
            // SAFETY: state and product outlive the team's work, and nobody writes them during it. There is one
            // workspace per thread, and only this thread uses this one.
            let (state, product, workspace) =
                unsafe { (&*shared.get(), &*product.get(), &mut *workspaces.get().add(thread)) };
            while let Some(job) = state.jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                // SAFETY: each job runs once, and no two jobs write to the same memory. The cells point to columns of
                // the product, and the workspace has room for the job's panels (see above).
                unsafe {
                    let cells = &state.cells[job.cells.clone()];
                    if plain || cells.len() < product.kernel.least_columns {
                        run_plain(product, job, cells);
                    } else {
                        run(product, job, cells, workspace);
                    }
                }
            }
        })
    }
}

/// Bytes from one panel of the product to the next.
fn panel_bytes(product: &Product) -> usize {
    (product.kernel.panel_bytes)(product.k).next_multiple_of(64)
}

/// Panels that a thread lays out at once.
fn panels_at_once(product: &Product) -> usize {
    let bytes = panel_bytes(product);
    let long = if product.kernel.instructions.has_avx512() { LONG_PANELS.min(LONG_PANEL_BYTES / bytes) } else { 1 };
    (PANEL_BYTES / bytes).max(long).max(1)
}

/// Returns the end of each expert's rows after sorting by expert. `None` if a route is not a valid expert index.
///
/// # Safety
/// The routes are computed.
unsafe fn ends_per_expert(routes: &Routes, experts: usize) -> Option<Vec<usize>> {
    let mut counts = vec![0; experts];
    for token in 0..routes.tokens {
        for slot in 0..routes.experts_per_token {
            // SAFETY: our own contract.
            let expert = unsafe { routes.expert(token, slot) };
            *counts.get_mut(usize::try_from(expert).ok()?)? += 1;
        }
    }
    let mut end = 0;
    Some(
        counts
            .into_iter()
            .map(|count| {
                end += count;
                end
            })
            .collect(),
    )
}

/// Multiplies the rows of a job with its columns by ggml's own `vec_dot`, one by one.
///
/// # Safety
/// As for [`run`], the columns as ggml has converted them.
unsafe fn run_plain(product: &Product, job: &Job, cells: &[Cell]) {
    let Some(dot) = cpu::traits(product.weights.type_()).and_then(|traits| traits.vec_dot) else { return };
    for row in job.rows.clone() {
        let weights = job.matrix.wrapping_add(row * product.row_bytes).cast();
        for cell in cells {
            // SAFETY: our own contract.
            unsafe { dot(product.k as i32, cell.output.add(row), 0, weights, 0, cell.column.cast(), 0, 1) };
        }
    }
}

/// Multiplies the rows of a job with its columns.
///
/// # Safety
/// The matrix has the rows, the cells point to columns of the product's length and to room for all rows of a matrix,
/// and no other thread writes the job's rows there. The workspace has room for the job's panels and the kernel's
/// floats.
unsafe fn run(product: &Product, job: &Job, cells: &[Cell], workspace: &mut Workspace) {
    let (kernel, k) = (product.kernel, product.k);
    let panel_bytes = panel_bytes(product);
    let panels = workspace.panels.as_mut_ptr();
    #[expect(clippy::cast_ptr_alignment, reason = "the workspace begins on a cache line")]
    let scratch = workspace.scratch.as_mut_ptr().cast::<f32>();
    for (i, first) in job.rows.clone().step_by(kernel.rows).enumerate() {
        let mut rows = [std::ptr::null(); LONGEST_SIDE];
        for (r, row) in rows[..kernel.rows].iter_mut().enumerate() {
            // Repeat the last row to fill a partial panel.
            *row = job.matrix.wrapping_add((first + r).min(job.rows.end - 1) * product.row_bytes);
        }
        // SAFETY: our own contract.
        unsafe { (kernel.pack)(&rows[..kernel.rows], k, panels.add(i * panel_bytes)) };
    }
    let at_once = (COLUMN_BYTES / (kernel.column_bytes)(k)).max(kernel.cols).next_multiple_of(kernel.cols);
    let mut out = [0.0_f32; LARGEST_TILE];
    let mut columns = [std::ptr::null(); LONGEST_SIDE];
    let group = (GROUP_BYTES / panel_bytes).max(1);
    for cells in cells.chunks(at_once) {
        for rows in chunks(job.rows.clone(), group * kernel.rows) {
            for cells in cells.chunks(kernel.cols) {
                for (c, column) in columns[..kernel.cols].iter_mut().enumerate() {
                    *column = cells[c.min(cells.len() - 1)].column;
                }
                for first in rows.clone().step_by(kernel.rows) {
                    let panel = panels.wrapping_add((first - job.rows.start) / kernel.rows * panel_bytes);
                    let wanted = kernel.rows.min(rows.end - first);
                    // SAFETY: our own contract; the rows that are wanted are in the matrix.
                    unsafe {
                        (kernel.tile)(k, panel, &columns[..kernel.cols], scratch, out.as_mut_ptr());
                        for (c, cell) in cells.iter().enumerate() {
                            let from = out.as_ptr().add(c * kernel.rows);
                            std::ptr::copy_nonoverlapping(from, cell.output.add(first), wanted);
                        }
                    }
                }
            }
        }
    }
}

/// Cuts a range into ranges of `size`, the last of which may be shorter.
fn chunks(range: std::ops::Range<usize>, size: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let end = range.end;
    range.step_by(size).map(move |first| first..end.min(first + size))
}

#[cfg(test)]
mod tests {
    use crate::llama::Backend;
    use crate::products::kernel::Kernel;
    use crate::products::kind::{Kind, Weights};
    use crate::products::trial::Trial;
    use crate::products::types::{Shape, Values};

    /// The fastest kernel of a kind, made to say that it has ggml's bits for no column.
    fn unsure(kind: Kind) -> Option<&'static Kernel> {
        let kernel = kind.kernels().next()?;
        Some(Box::leak(Box::new(Kernel { prepare: |_, _, _| false, ..*kernel })))
    }

    #[test]
    fn columns_that_a_kernel_is_not_exact_for_are_multiplied_by_ggml() {
        let _ = Backend::init();
        // The others have ggml's bits for all columns, and ggml computes their products in another way.
        let by_vec_dot = |kind: &&Kind| {
            kind.weights == Weights::Q8_0 || (kind.routed && matches!(kind.weights, Weights::F16 | Weights::Bf16))
        };
        for &kind in Kind::ALL.iter().filter(by_vec_dot) {
            let Some(kernel) = unsure(kind) else { continue };
            for shape in [
                Shape { k: 256, rows: 21, tokens: 17, experts: (5, 2), own_rows: true },
                Shape { k: 64, rows: 3, tokens: 8, experts: (3, 3), own_rows: false },
            ] {
                let mut trial = Trial::new(kind, kernel, shape, 2).unwrap();
                trial.fill(Values::Extreme, 1);
                let outcome = trial.run().unwrap();
                assert_eq!(outcome.apart, 0, "{kind} {shape:?}");
            }
        }
    }
}
