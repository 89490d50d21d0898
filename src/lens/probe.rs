//! Measures a model during a run: selects rows before each decode and measures them after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::llama::{Graph, Model, OutputRows, ROWS_AT_ONCE, Readout, Token};

use super::capture::RowCapture;
use super::findings::{ChunkFindings, Columns, LensOptions, RowLayout, SectionId};
use super::measure::{Distributions, PrismScale, cosine_steps, divergences};
use super::plan::{LinearLogitOps, Plan};

/// Identifies the graph of a decode: tokens per sequence, and number of sequences.
type DecodeShape = (usize, usize);

/// A sampled position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SamplePoint {
    /// Index of the chunk.
    pub(crate) chunk: usize,
    /// Position in the chunk.
    pub(crate) position: usize,
    /// Token that follows.
    pub(crate) target: Token,
    /// Row of the decode.
    pub(crate) row: usize,
}

/// Measures the layers of a model in one context.
pub(crate) struct LensProbe<'m> {
    model: &'m Model,
    options: LensOptions,
    n_threads: usize,
    /// `None` for a graph whose structure differs from the first: its results cannot be combined with the others.
    plans: BTreeMap<DecodeShape, Option<Arc<Plan>>>,
    tools: Option<Tools<'m>>,
    layout: Arc<RowLayout>,
    points: Vec<SamplePoint>,
}

/// State for measuring that all graphs of a model share.
struct Tools<'m> {
    first: Arc<Plan>,
    readout: Option<Readout<'m>>,
    prism: Option<PrismScale>,
}

impl<'m> LensProbe<'m> {
    /// Creates a probe for a context of `model`.
    #[must_use]
    pub(crate) fn new(model: &'m Model, options: LensOptions) -> Self {
        Self {
            model,
            options,
            n_threads: 1,
            plans: BTreeMap::new(),
            tools: None,
            layout: Arc::default(),
            points: Vec::new(),
        }
    }

    /// Returns the options.
    #[must_use]
    pub(crate) fn options(&self) -> &LensOptions {
        &self.options
    }

    /// Sets the number of threads.
    pub(crate) fn set_threads(&mut self, n_threads: usize) {
        self.n_threads = n_threads.max(1);
        if let Some(Tools { readout: Some(readout), .. }) = &mut self.tools {
            readout.set_threads(n_threads);
        }
    }

    /// Returns true if the graph of decodes of this shape must be passed to [`learn_graph`](Self::learn_graph).
    #[must_use]
    pub(crate) fn needs_graph(&self, shape: DecodeShape) -> bool {
        !self.plans.contains_key(&shape) && (self.tools.is_none() || self.layout.width() > 0)
    }

    /// Learns the graph of a decode of `n_tokens` tokens that has this shape.
    pub(crate) fn learn_graph(&mut self, shape: DecodeShape, n_tokens: usize, graph: &Graph<'m>) {
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
        self.layout = Arc::new(RowLayout { columns });
    }

    /// Makes `capture` copy the rows of these points in the next decode.
    pub(crate) fn select(&mut self, capture: &mut RowCapture, shape: DecodeShape, points: Vec<SamplePoint>) {
        let rows = points.iter().map(|point| point.row).collect();
        self.points = points;
        match self.plans.get(&shape) {
            Some(Some(plan)) if self.layout.width() > 0 => capture.start(plan, rows),
            _ => capture.stop(),
        }
    }

    /// Measures the captured rows and adds a row of results per point to its chunk.
    ///
    /// # Errors
    /// The reason why the rows cannot be measured.
    pub(crate) fn measure(
        &mut self,
        capture: &mut RowCapture,
        shape: DecodeShape,
        into: &mut BTreeMap<usize, ChunkFindings>,
    ) -> Result<(), String> {
        let mut rows = Vec::new();
        if let (Some(tools), Some(Some(plan))) = (&mut self.tools, self.plans.get(&shape))
            && self.layout.width() > 0
            && !self.points.is_empty()
        {
            let captured = match capture.captured() {
                Ok(captured) => captured,
                // A graph of documents of another length has another structure: these points cannot be measured.
                Err(_) if shape.1 == 0 => {
                    self.points.clear();
                    capture.stop();
                    return Ok(());
                }
                Err(reason) => return Err(reason),
            };
            rows = vec![vec![f64::NAN; self.layout.width()]; self.points.len()];
            let view = View { plan, captured, points: &self.points, layout: &self.layout };
            tools.measure(&view, &self.options, self.n_threads, &mut rows)?;
        }
        capture.stop();
        let mut rows = rows.into_iter();
        for point in self.points.drain(..) {
            let empty = || ChunkFindings { layout: Arc::clone(&self.layout), rows: Vec::new() };
            into.entry(point.chunk).or_insert_with(empty).rows.extend(rows.next());
        }
        Ok(())
    }
}

/// The rows captured in one decode.
pub(super) struct View<'v> {
    pub(super) plan: &'v Plan,
    captured: &'v [Vec<f32>],
    pub(super) points: &'v [SamplePoint],
    layout: &'v RowLayout,
}

impl View<'_> {
    /// Returns the captured rows of a node.
    pub(super) fn node(&self, node: usize) -> &[f32] {
        self.plan.capture(node).map_or(&[], |(slot, _)| &self.captured[slot])
    }

    /// Returns the row of a node at a point.
    pub(super) fn row(&self, node: usize, point: usize) -> &[f32] {
        let rows = self.node(node);
        let width = rows.len() / self.points.len();
        &rows[point * width..][..width]
    }
}

impl<'m> Tools<'m> {
    fn nothing() -> Self {
        Self { first: Arc::new(Plan::empty()), readout: None, prism: None }
    }

    /// Also returns the columns that the model allows.
    fn new(
        model: &Model,
        graph: &Graph<'m>,
        plan: &Arc<Plan>,
        options: &LensOptions,
        n_threads: usize,
    ) -> (Self, Columns) {
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
            let scale = LinearLogitOps::new(graph).and_then(|logit_ops| {
                let rows = OutputRows::open(model, graph).map_err(|error| error.to_string())?;
                Ok(PrismScale::new(&plan.structure, rows, logit_ops))
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
        if view.layout.measured(SectionId::Similarity) {
            cosine_steps(view, view.layout.start(SectionId::Similarity), rows);
        }
        if let (Some(prism), Some(readout)) = (&mut self.prism, &mut self.readout) {
            let parts = view.layout.columns.prism.as_ref().and_then(|c| c.as_ref().ok());
            prism.measure(
                view,
                readout,
                view.layout.start(SectionId::Prism),
                parts.map_or(&[], Vec::as_slice),
                rows,
            )?;
        }
        if let (true, Some(readout)) = (view.layout.measured(SectionId::Lens), &mut self.readout) {
            for from in (0..view.points.len()).step_by(ROWS_AT_ONCE) {
                let part = from..(from + ROWS_AT_ONCE).min(view.points.len());
                let last = Distributions::last(view, readout, part.clone(), options)?;
                divergences(view, readout, &last, part, n_threads, rows)?;
            }
        }
        Ok(())
    }
}
