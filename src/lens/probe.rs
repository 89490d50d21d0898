//! Looks into a model during a run: before a decode it says which rows are wanted, after it, it measures them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::llama::{Graph, Model, OutputRows, ROWS_AT_ONCE, Readout, Token};

use super::findings::{ChunkFindings, Columns, Layout, LensOptions, Section};
use super::measure::{Distributions, PrismScale, cosine_steps, divergences};
use super::plan::{LinearTail, Plan};
use super::watch::LensWatch;

/// What tells the graphs of decodes apart: tokens of each sequence, and sequences.
type Shape = (usize, usize);

/// A position to look at.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    /// The chunk.
    pub chunk: usize,
    /// The position in it.
    pub position: usize,
    /// The token that follows.
    pub target: Token,
    /// The row of the decode.
    pub row: usize,
}

/// What looks into a model through one context of it.
pub struct Glass<'m> {
    model: &'m Model,
    options: LensOptions,
    n_threads: usize,
    /// None for a graph of another structure than the first: its results could not be put together with the others'.
    plans: BTreeMap<Shape, Option<Arc<Plan>>>,
    tools: Option<Tools>,
    layout: Arc<Layout>,
    sights: Vec<Sight>,
}

/// What measuring takes, the same for all graphs of a model.
struct Tools {
    first: Arc<Plan>,
    readout: Option<Readout>,
    prism: Option<PrismScale>,
}

impl<'m> Glass<'m> {
    /// For a context of `model`.
    #[must_use]
    pub fn new(model: &'m Model, options: LensOptions) -> Self {
        Self {
            model,
            options,
            n_threads: 1,
            plans: BTreeMap::new(),
            tools: None,
            layout: Arc::default(),
            sights: Vec::new(),
        }
    }

    /// What is to be found out.
    #[must_use]
    pub fn options(&self) -> &LensOptions {
        &self.options
    }

    /// Computes on so many threads from now on.
    pub fn set_threads(&mut self, n_threads: usize) {
        self.n_threads = n_threads.max(1);
        if let Some(Tools { readout: Some(readout), .. }) = &mut self.tools {
            readout.set_threads(n_threads);
        }
    }

    /// Whether the graph of decodes of this shape is still to be [shown](Self::learn).
    #[must_use]
    pub fn needs(&self, shape: Shape) -> bool {
        !self.plans.contains_key(&shape) && (self.tools.is_none() || self.layout.width() > 0)
    }

    /// Takes in the graph of a decode of `n_tokens` that is of this shape.
    pub fn learn(&mut self, shape: Shape, n_tokens: usize, graph: &Graph) {
        let plan = Plan::new(graph, n_tokens, &self.options).map(Arc::new);
        let agrees = |plan: &Arc<Plan>| self.tools.as_ref().is_some_and(|tools| tools.first.agrees(plan));
        let plan = match (&self.tools, plan) {
            (None, Ok(plan)) => {
                let (tools, columns) = Tools::new(self.model, graph, &plan, &self.options, self.n_threads);
                self.set_layout(columns);
                self.tools = Some(tools);
                Some(plan)
            }
            (None, Err(reason)) => {
                self.set_layout(Columns::unsupported(&self.options, &reason));
                self.tools = Some(Tools::nothing());
                None
            }
            (Some(_), plan) => plan.ok().filter(agrees),
        };
        self.plans.insert(shape, plan);
    }

    fn set_layout(&mut self, columns: Columns) {
        self.layout = Arc::new(Layout { columns });
    }

    /// Has `watch` look at these positions of the decode that follows.
    pub fn aim(&mut self, watch: &mut LensWatch, shape: Shape, sights: Vec<Sight>) {
        self.sights = sights;
        match self.plans.get(&shape) {
            Some(Some(plan)) if self.layout.width() > 0 => watch.aim(plan, self.sights.iter().map(|s| s.row).collect()),
            _ => watch.rest(),
        }
    }

    /// Measures what `watch` has seen, and adds a row for each position to its chunk.
    ///
    /// # Errors
    /// What went wrong.
    pub fn measure(
        &mut self,
        watch: &mut LensWatch,
        shape: Shape,
        into: &mut BTreeMap<usize, ChunkFindings>,
    ) -> Result<(), String> {
        let mut rows = Vec::new();
        if let (Some(tools), Some(Some(plan))) = (&mut self.tools, self.plans.get(&shape))
            && self.layout.width() > 0
            && !self.sights.is_empty()
        {
            let captured = match watch.captured() {
                Ok(captured) => captured,
                // A graph of another length that is not the same: nothing is known of these positions.
                Err(_) if shape.1 == 0 => {
                    self.sights.clear();
                    watch.rest();
                    return Ok(());
                }
                Err(reason) => return Err(reason),
            };
            rows = vec![vec![f64::NAN; self.layout.width()]; self.sights.len()];
            let view = View { plan, captured, sights: &self.sights, layout: &self.layout };
            tools.measure(&view, &self.options, self.n_threads, &mut rows)?;
        }
        watch.rest();
        let mut rows = rows.into_iter();
        for sight in self.sights.drain(..) {
            let empty = || ChunkFindings { layout: Arc::clone(&self.layout), rows: Vec::new() };
            into.entry(sight.chunk).or_insert_with(empty).rows.extend(rows.next());
        }
        Ok(())
    }
}

/// One decode's captures.
pub(super) struct View<'v> {
    pub(super) plan: &'v Plan,
    captured: &'v [Vec<f32>],
    pub(super) sights: &'v [Sight],
    layout: &'v Layout,
}

impl View<'_> {
    /// All wanted rows of a node.
    pub(super) fn node(&self, node: usize) -> &[f32] {
        self.plan.capture(node).map_or(&[], |(slot, _)| &self.captured[slot])
    }

    /// The row of a node for a sight.
    pub(super) fn row(&self, node: usize, sight: usize) -> &[f32] {
        let rows = self.node(node);
        let width = rows.len() / self.sights.len();
        &rows[sight * width..][..width]
    }
}

impl Tools {
    fn nothing() -> Self {
        Self { first: Arc::new(Plan::empty()), readout: None, prism: None }
    }

    /// Also says what the model allows.
    fn new(model: &Model, graph: &Graph, plan: &Arc<Plan>, options: &LensOptions, n_threads: usize) -> (Self, Columns) {
        let mut columns = plan.columns.clone();
        let mut tools = Self { first: Arc::clone(plan), readout: None, prism: None };
        if options.lens || options.prism {
            match Readout::new(graph, &plan.structure.after_nodes, n_threads) {
                Ok(readout) => tools.readout = Some(readout),
                Err(reason) => {
                    columns.lens = columns.lens.map(|c| c.and(Err(reason.clone())));
                    columns.prism = columns.prism.map(|c| c.and(Err(reason.clone())));
                }
            }
        }
        if matches!(columns.prism, Some(Ok(_))) {
            let scale = LinearTail::new(graph).and_then(|tail| {
                let rows = OutputRows::open(model, graph).map_err(|error| error.to_string())?;
                Ok(PrismScale::new(&plan.structure, rows, tail))
            });
            match scale {
                Ok(scale) => tools.prism = Some(scale),
                Err(reason) => columns.prism = Some(Err(reason)),
            }
        }
        (tools, columns)
    }

    fn measure(
        &mut self,
        view: &View<'_>,
        options: &LensOptions,
        n_threads: usize,
        rows: &mut [Vec<f64>],
    ) -> Result<(), String> {
        if view.layout.measured(Section::Similarity) {
            cosine_steps(view, view.layout.start(Section::Similarity), rows);
        }
        if let (Some(prism), Some(readout)) = (&mut self.prism, &mut self.readout) {
            let parts = view.layout.columns.prism.as_ref().and_then(|c| c.as_ref().ok());
            prism.measure(view, readout, view.layout.start(Section::Prism), parts.map_or(&[], Vec::as_slice), rows)?;
        }
        if let (true, Some(readout)) = (view.layout.measured(Section::Lens), &mut self.readout) {
            for from in (0..view.sights.len()).step_by(ROWS_AT_ONCE) {
                let part = from..(from + ROWS_AT_ONCE).min(view.sights.len());
                let last = Distributions::last(view, readout, part.clone(), options)?;
                divergences(view, readout, &last, part, n_threads, rows)?;
            }
        }
        Ok(())
    }
}
