//! The progress bar on standard error, if that is a terminal.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::line::{Field, line};
use super::pace::Pace;
use super::{log, units};

/// Columns of a terminal that does not say.
const DEFAULT_WIDTH: u16 = 80;
/// Time between two drawings.
const TICK: Duration = Duration::from_millis(200);
/// Drawn in turn, for work of unknown length.
const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// Set if nothing is logged: the bar is part of the log.
static DISABLED: AtomicBool = AtomicBool::new(false);
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn bar() -> MutexGuard<'static, Option<ProgressBar>> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows no bar, if `disabled`.
pub(crate) fn set_disabled(disabled: bool) {
    DISABLED.store(disabled, Ordering::Relaxed);
}

/// Returns true if a bar can be seen: it is drawn on a terminal alone.
pub(crate) fn visible() -> bool {
    std::io::stderr().is_terminal() && !DISABLED.load(Ordering::Relaxed)
}

/// Shows a line, which `draw` returns for a width in columns.
fn show(draw: impl Fn(usize) -> String + Send + Sync + Clone + 'static) {
    if !visible() {
        return;
    }
    let new = ProgressBar::new_spinner();
    let write = move |_: &ProgressState, to: &mut dyn std::fmt::Write| {
        let width = console::Term::stderr().size_checked().map_or(DEFAULT_WIDTH, |(_, columns)| columns);
        let _ = to.write_str(&draw(width.into()));
    };
    if let Ok(style) = ProgressStyle::with_template("{line}") {
        new.set_style(style.with_key("line", write));
    }
    new.enable_steady_tick(TICK);
    *bar() = Some(new);
}

/// Shows that something of unknown length is being done.
pub(crate) fn spin(message: String) {
    let started = Instant::now();
    show(move |width| {
        let sign = SPINNER[(started.elapsed().as_millis() / TICK.as_millis()) as usize % SPINNER.len()];
        let fields = [Field::fixed(2, message.clone()), Field::fixed(1, units::duration(started.elapsed()))];
        format!("{sign} {}", line(None, &fields, width.saturating_sub(2), log::colors()))
    });
}

/// Progress of the loading of a model.
#[cfg(feature = "llama")]
pub(crate) struct Loading(Arc<AtomicU64>);

#[cfg(feature = "llama")]
impl Loading {
    /// Shows a bar for the fraction that is loaded.
    pub(crate) fn start(message: String) -> Self {
        let fraction = Arc::new(AtomicU64::new(0));
        let (shown, started) = (Arc::clone(&fraction), Instant::now());
        show(move |width| {
            let part = f64::from_bits(shown.load(Ordering::Relaxed));
            let fields = [Field::fixed(2, message.clone()), Field::fixed(1, units::duration(started.elapsed()))];
            line(Some(part), &fields, width, log::colors())
        });
        Self(fraction)
    }

    pub(crate) fn set(&self, fraction: f32) {
        self.0.store(f64::from(fraction).to_bits(), Ordering::Relaxed);
    }
}

/// Number of bytes done, of the bar for bytes.
#[cfg(any(feature = "download", feature = "llama"))]
static BYTES: AtomicU64 = AtomicU64::new(0);

/// Shows a bar for `total` bytes, or a spinner if the total is unknown.
#[cfg(any(feature = "download", feature = "llama"))]
pub(crate) fn start_bytes(name: String, total: Option<u64>) {
    BYTES.store(0, Ordering::Relaxed);
    let pace = Arc::new(Mutex::new(Pace::new(total.unwrap_or(0), 0)));
    let started = Instant::now();
    show(move |width| {
        let (now, done) = (started.elapsed(), BYTES.load(Ordering::Relaxed));
        let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.observe(now, done);
        let speed = pace.speed().map(|speed| format!("{}/s", units::bytes(speed as u64)));
        let left = total.and(pace.left(now)).map(|left| format!("{} left", units::duration(left)));
        let size = total
            .map_or_else(|| units::bytes(done), |total| format!("{} of {}", units::bytes(done), units::bytes(total)));
        let fields = [
            Field::fixed(4, name.clone()),
            Field::new(2, size, units::bytes(done)),
            Field::fixed(1, speed.unwrap_or_default()),
            Field::fixed(3, left.unwrap_or_else(|| units::duration(now))),
        ];
        line(total.map(|_| pace.part()), &fields, width, log::colors())
    });
}

/// Sets the number of bytes done.
#[cfg(any(feature = "download", feature = "llama"))]
pub(crate) fn set_bytes(done: u64) {
    BYTES.store(done, Ordering::Relaxed);
}

/// Number of items done, of the bar for items.
#[cfg(feature = "llama")]
static ITEMS: AtomicU64 = AtomicU64::new(0);

/// Progress of items for lines of the log.
#[cfg(feature = "llama")]
static ITEM_LINES: Mutex<Option<ItemLines>> = Mutex::new(None);

#[cfg(feature = "llama")]
struct ItemLines {
    total: usize,
    what: &'static str,
    pace: Pace,
    started: Instant,
    /// The last line: its tenth of the work, and when.
    logged: (usize, Instant),
}

#[cfg(feature = "llama")]
impl ItemLines {
    fn new(total: usize, what: &'static str) -> Self {
        let now = Instant::now();
        Self { total, what, pace: Pace::new(total as u64, 0), started: now, logged: (0, now) }
    }

    /// Returns a line if a tenth of the work is complete, and the last line is old enough.
    fn line(&mut self, done: usize, interval: Duration) -> Option<String> {
        let now = self.started.elapsed();
        self.pace.end_batch(now, done as u64);
        let tenth = 10 * done / self.total.max(1);
        if tenth <= self.logged.0 || done >= self.total || self.logged.1.elapsed() < interval {
            return None;
        }
        self.logged = (tenth, Instant::now());
        let left = self.pace.left(now).map_or_else(String::new, |left| format!(", {} left", units::duration(left)));
        Some(format!("{done} of {} {}{left}", self.total, self.what))
    }
}

/// Shows a bar for `total` items, which `what` names: weights, chunks. Without a terminal the log has a line per tenth of a long
/// run.
#[cfg(feature = "llama")]
pub(crate) fn start_items(total: usize, what: &'static str) {
    ITEMS.store(0, Ordering::Relaxed);
    *ITEM_LINES.lock().unwrap_or_else(PoisonError::into_inner) = Some(ItemLines::new(total, what));
    let pace = Arc::new(Mutex::new(Pace::new(total as u64, 0)));
    let started = Instant::now();
    show(move |width| {
        let (now, done) = (started.elapsed(), ITEMS.load(Ordering::Relaxed));
        let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.observe(now, done);
        let left = pace.left(now).map(|left| format!("{} left", units::duration(left)));
        let fields = [
            Field::fixed(2, format!("{done} of {total} {what}")),
            Field::fixed(1, left.unwrap_or_else(|| units::duration(now))),
        ];
        line(Some(pace.part()), &fields, width, log::colors())
    });
}

/// Sets the number of items done.
#[cfg(feature = "llama")]
pub(crate) fn set_items(done: usize) {
    ITEMS.store(done as u64, Ordering::Relaxed);
    if visible() {
        return;
    }
    let mut lines = ITEM_LINES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(line) = lines.as_mut().and_then(|lines| lines.line(done, LOG_INTERVAL)) {
        log::info(format_args!("{line}"));
    }
}

/// Progress of the evaluation, for the bar and for lines of the log.
#[cfg(feature = "llama")]
#[derive(Debug, Clone)]
pub(crate) struct Evaluation(Arc<Shared>);

#[cfg(feature = "llama")]
#[derive(Debug)]
struct Shared {
    /// Tokens evaluated so far: the evaluation counts them.
    tokens: Arc<AtomicU64>,
    n_chunks: usize,
    started: Instant,
    now: Mutex<Now>,
}

/// What is known at a time.
#[cfg(feature = "llama")]
#[derive(Debug)]
struct Now {
    pace: Pace,
    chunks: usize,
    perplexity: Option<f64>,
    /// Unseen experts and all experts.
    experts: Option<(u64, u64)>,
    /// Part of the run, in tenths, that the last line of the log was about, and when.
    logged: (u64, Instant),
}

#[cfg(feature = "llama")]
impl Evaluation {
    /// Shows a bar for `total` tokens in `n_chunks` chunks, of which `before` tokens are done. `tokens` counts.
    pub(crate) fn start(tokens: Arc<AtomicU64>, total: u64, before: u64, n_chunks: usize) -> Self {
        let started = Instant::now();
        let pace = Pace::new(total, before);
        let tenth = (pace.part() * 10.0) as u64;
        let now = Now { pace, chunks: 0, perplexity: None, experts: None, logged: (tenth, started) };
        tokens.store(before, Ordering::Relaxed);
        let evaluation = Self(Arc::new(Shared { tokens, n_chunks, started, now: Mutex::new(now) }));
        let shown = evaluation.clone();
        show(move |width| shown.line(width));
        evaluation
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, width: usize) -> String {
        let mut now = self.now();
        let time = self.0.started.elapsed();
        now.pace.observe(time, self.0.tokens.load(Ordering::Relaxed));
        line(Some(now.pace.part()), &fields(&now, self.0.n_chunks, time), width, log::colors())
    }

    /// Notes the end of a batch: chunks so far, perplexity, and how many experts are unseen of how many.
    pub(crate) fn end_batch(&self, chunks: usize, perplexity: Option<f64>, experts: Option<(u64, u64)>) {
        let mut now = self.now();
        (now.chunks, now.perplexity, now.experts) = (chunks, perplexity, experts);
        let time = self.0.started.elapsed();
        now.pace.end_batch(time, self.0.tokens.load(Ordering::Relaxed));
        let tenth = (now.pace.part() * 10.0) as u64;
        if visible() || tenth <= now.logged.0 || now.logged.1.elapsed() < LOG_INTERVAL {
            return;
        }
        now.logged = (tenth, Instant::now());
        let text = line(None, &fields(&now, self.0.n_chunks, time), usize::MAX, false);
        drop(now);
        log::info(format_args!("{}", text.replace(" · ", ", ")));
    }
}

/// Without a bar, a line of the log follows at most so often: once per tenth of the run.
#[cfg(feature = "llama")]
const LOG_INTERVAL: Duration = Duration::from_secs(60);

#[cfg(feature = "llama")]
fn fields(now: &Now, n_chunks: usize, time: Duration) -> Vec<Field> {
    let left = match now.pace.left(time) {
        Some(left) => format!("{} left", units::duration(left.max(Duration::from_secs(1)))),
        None => "estimating…".to_owned(),
    };
    let speed = now.pace.speed().map(units::rate);
    let mut fields =
        vec![Field::new(3, format!("chunk {}/{n_chunks}", now.chunks), format!("{}/{n_chunks}", now.chunks))];
    fields.extend(now.perplexity.map(|value| Field::fixed(5, format!("PPL {value:.2}"))));
    fields.extend(now.experts.map(|(unseen, total)| {
        Field::new(
            4,
            format!("{unseen} of {total} experts unseen"),
            format!("{unseen} unseen expert{}", if unseen == 1 { "" } else { "s" }),
        )
    }));
    fields.extend(speed.map(|speed| Field::new(1, format!("{speed} tokens/s"), format!("{speed} t/s"))));
    fields.push(Field::fixed(9, left));
    fields
}

/// Removes the bar.
pub(crate) fn finish() {
    if let Some(bar) = bar().take() {
        bar.finish_and_clear();
    }
}

/// Runs `write` while the bar is hidden.
pub(crate) fn suspended(write: impl FnOnce()) {
    match bar().as_ref() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

#[cfg(all(test, feature = "llama"))]
mod tests {
    use super::*;

    #[test]
    fn items_have_a_line_per_tenth_if_the_last_line_is_old_enough() {
        let mut lines = ItemLines::new(30, "weights");
        let mut shown = |done| lines.line(done, Duration::ZERO).map(|line| line.split(',').next().unwrap().to_owned());
        assert_eq!((shown(1), shown(2)), (None, None));
        assert_eq!(shown(3).as_deref(), Some("3 of 30 weights"));
        assert_eq!((shown(4), shown(30)), (None, None), "the end has a line of its own");
        assert_eq!(ItemLines::new(30, "weights").line(15, Duration::from_secs(60)), None);
    }

    #[test]
    fn a_run_says_estimating_until_it_can_tell() {
        let mut now = Now {
            pace: Pace::new(10_000, 0),
            chunks: 0,
            perplexity: None,
            experts: Some((3, 8)),
            logged: (0, Instant::now()),
        };
        let text = line(Some(now.pace.part()), &fields(&now, 20, Duration::from_secs(3)), 80, false);
        assert!(
            text.starts_with("  0% ") && text.ends_with("chunk 0/20 · 3 of 8 experts unseen · estimating…"),
            "{text}"
        );
        now.pace.end_batch(Duration::from_secs(10), 1000);
        (now.chunks, now.perplexity) = (2, Some(21.0171));
        let text = line(Some(now.pace.part()), &fields(&now, 20, Duration::from_secs(10)), 100, false);
        assert!(text.ends_with("PPL 21.02 · 3 of 8 experts unseen · 100 tokens/s · 1m30s left"), "{text}");
    }
}
