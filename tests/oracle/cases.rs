//! What is varied: each flag that changes what is collected, from a run of five chunks.

/// Settings of a run, for the oracle, the library and the program alike.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "flags, which are what is varied")]
pub(super) struct Setup {
    pub(super) size: usize,
    pub(super) n_batch: usize,
    pub(super) n_ubatch: usize,
    pub(super) skip: usize,
    pub(super) limit: Option<usize>,
    pub(super) keep_tail: bool,
    pub(super) documents: bool,
    pub(super) process_output: bool,
    pub(super) min_rows: i64,
    pub(super) nextn: bool,
    pub(super) perplexity: bool,
    pub(super) flash_attention: Option<bool>,
    /// Sums that do not depend on the order of the rows: `--accumulate f64`.
    pub(super) exact: bool,
    /// Start from the sums of the two chunks before: `--in-file`.
    pub(super) earlier: bool,
    /// Chunks that are not finite are left out, at most these.
    pub(super) max_bad_chunks: usize,
    /// Chunks to evaluate, of those above.
    pub(super) part: Option<std::ops::Range<usize>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            size: 64,
            n_batch: 64,
            n_ubatch: 512,
            skip: 0,
            limit: Some(5),
            keep_tail: false,
            documents: false,
            process_output: false,
            min_rows: 16,
            nextn: false,
            perplexity: false,
            flash_attention: None,
            exact: false,
            earlier: false,
            max_bad_chunks: 0,
            part: None,
        }
    }
}

impl Setup {
    /// The same settings as flags of the program.
    pub(super) fn flags(&self) -> String {
        let mut flags =
            format!("-c {} -b {} -ub {} --min-rows {}", self.size, self.n_batch, self.n_ubatch, self.min_rows);
        let mut add = |wanted: bool, flag: &str| {
            if wanted {
                flags += " ";
                flags += flag;
            }
        };
        add(self.skip > 0, &format!("--chunk {}", self.skip));
        add(self.limit.is_some(), &format!("--chunks {}", self.limit.unwrap_or(0)));
        add(self.keep_tail, "--keep-tail");
        add(self.documents, "--documents");
        add(self.process_output, "--process-output");
        add(self.nextn, "--nextn");
        add(!self.perplexity, "--no-ppl");
        add(self.exact, "--accumulate f64");
        add(self.flash_attention == Some(true), "-fa on");
        add(self.flash_attention == Some(false), "-fa off");
        add(self.earlier, "--in-file earlier.gguf");
        flags
    }
}

pub(super) struct Case {
    pub(super) name: &'static str,
    change: fn(&mut Setup),
}

impl Case {
    pub(super) fn setup(&self) -> Setup {
        let mut setup = Setup::default();
        (self.change)(&mut setup);
        setup
    }

    /// The run whose matrix this one starts from.
    pub(super) fn before(&self) -> Setup {
        Setup { skip: 0, limit: Some(2), earlier: false, exact: false, ..self.setup() }
    }
}

const fn case(name: &'static str, change: fn(&mut Setup)) -> Case {
    Case { name, change }
}

pub(super) const CASES: &[Case] = &[
    case("default", |_| {}),
    case("perplexity", |s| s.perplexity = true),
    case("process-output", |s| s.process_output = true),
    case("process-output with perplexity", |s| (s.process_output, s.perplexity) = (true, true)),
    case("process-output of several sequences", |s| {
        (s.process_output, s.perplexity, s.n_batch, s.limit) = (true, true, 128, Some(10));
    }),
    case("four sequences", |s| (s.n_batch, s.limit) = (256, Some(20))),
    case("a last batch of fewer sequences", |s| (s.n_batch, s.limit) = (256, Some(18))),
    case("sequences over micro-batches", |s| (s.n_batch, s.n_ubatch, s.limit) = (256, 96, Some(10))),
    case("sequences over micro-batches with perplexity", |s| {
        (s.n_batch, s.n_ubatch, s.limit, s.perplexity) = (256, 96, Some(10), true);
    }),
    case("micro-batches", |s| s.n_ubatch = 16),
    case("micro-batches of too few rows", |s| s.n_ubatch = 24),
    case("micro-batches of too few rows, output", |s| (s.n_ubatch, s.process_output) = (24, true)),
    case("min-rows of the rest of a chunk", |s| (s.n_ubatch, s.min_rows) = (24, 8)),
    case("min-rows of every input", |s| (s.n_ubatch, s.min_rows) = (24, 1)),
    case("min-rows above a chunk", |s| (s.n_batch, s.min_rows, s.limit) = (128, 65, Some(10))),
    case("batch below a chunk", |s| s.n_batch = 32),
    case("batch below a chunk with perplexity", |s| (s.n_batch, s.perplexity) = (32, true)),
    case("batch that does not divide a chunk", |s| s.n_batch = 40),
    case("chunk and chunks", |s| (s.skip, s.limit) = (3, Some(4))),
    case("all chunks", |s| s.limit = None),
    case("larger chunks", |s| (s.size, s.n_batch) = (160, 160)),
    case("keep-tail", |s| (s.keep_tail, s.limit) = (true, None)),
    case("keep-tail in sequences", |s| (s.keep_tail, s.limit, s.n_batch) = (true, None, 256)),
    case("keep-tail of few rows", |s| (s.keep_tail, s.limit, s.min_rows) = (true, None, 1)),
    case("documents", |s| (s.documents, s.limit, s.min_rows) = (true, None, 1)),
    case("documents with perplexity", |s| (s.documents, s.limit, s.min_rows, s.perplexity) = (true, None, 1, true)),
    case("documents in micro-batches", |s| (s.documents, s.limit, s.min_rows, s.n_ubatch) = (true, None, 1, 96)),
    case("documents, chunk and chunks", |s| (s.documents, s.skip, s.limit, s.min_rows) = (true, 2, Some(6), 1)),
    case("flash attention", |s| s.flash_attention = Some(true)),
    case("no flash attention", |s| s.flash_attention = Some(false)),
    case("a part of the chunks", |s| s.part = Some(1..4)),
    case("on top of a matrix", |s| (s.skip, s.earlier) = (2, true)),
    case("exact", |s| s.exact = true),
    case("exact, output, sequences", |s| {
        (s.exact, s.process_output, s.n_batch, s.limit) = (true, true, 128, Some(10));
    }),
    case("exact, on top of a matrix", |s| (s.exact, s.skip, s.earlier) = (true, 2, true)),
    case("exact documents", |s| (s.exact, s.documents, s.limit, s.min_rows) = (true, true, None, 1)),
];

pub(super) const NEXTN_CASES: &[Case] = &[
    case("no NextN layer", |_| {}),
    case("nextn", |s| s.nextn = true),
    case("nextn with perplexity", |s| (s.nextn, s.perplexity) = (true, true)),
    case("nextn, process-output", |s| (s.nextn, s.process_output) = (true, true)),
    case("nextn in micro-batches", |s| (s.nextn, s.n_ubatch) = (true, 24)),
    case("nextn in micro-batches, min-rows", |s| (s.nextn, s.n_ubatch, s.min_rows) = (true, 24, 1)),
    case("nextn, batch below a chunk", |s| (s.nextn, s.n_batch, s.process_output) = (true, 32, true)),
    case("nextn on top of a matrix", |s| (s.nextn, s.skip, s.earlier) = (true, 2, true)),
    case("exact nextn", |s| (s.nextn, s.exact) = (true, true)),
];
