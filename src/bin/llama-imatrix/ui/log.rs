//! The log, on standard error. Standard output is data: what scripts read of llama.cpp's tool, and nothing else. As in
//! that tool, perplexities are a part of the log that happens to go to standard output.

use std::fmt;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::progress;

/// llama.cpp's verbosity levels: a message is shown if its level is at most the threshold.
pub(crate) mod level {
    pub(crate) const OUTPUT: i32 = 0;
    pub(crate) const ERROR: i32 = 1;
    pub(crate) const WARN: i32 = 2;
    pub(crate) const INFO: i32 = 3;
    pub(crate) const TRACE: i32 = 4;
    pub(crate) const DEBUG: i32 = 5;
}

/// Options of the log.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one field per flag, as users know them")]
pub(crate) struct LogOptions {
    pub(crate) disable: bool,
    pub(crate) file: Option<PathBuf>,
    pub(crate) jsonl: bool,
    /// `None`: on a terminal without `NO_COLOR`.
    pub(crate) colors: Option<bool>,
    pub(crate) prefix: bool,
    pub(crate) timestamps: bool,
}

static VERBOSITY: AtomicI32 = AtomicI32::new(level::INFO);
static SINK: OnceLock<Sink> = OnceLock::new();
/// First write error per place: a part of standard output or of the log's file is lost.
static LOST: Mutex<Vec<(Place, std::io::Error)>> = Mutex::new(Vec::new());

/// A place where lost data must be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Stdout,
    File,
}

/// Keeps the first error. A closed pipe (`| head`) is no error.
fn note(place: Place, written: std::io::Result<()>) {
    let Err(error) = written else { return };
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    if error.kind() != std::io::ErrorKind::BrokenPipe && lost.iter().all(|(known, _)| *known != place) {
        lost.push((place, error));
    }
}

/// Returns true if a part of standard output is lost.
pub(crate) fn has_lost_output() -> bool {
    LOST.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|(place, _)| *place == Place::Stdout)
}

/// Reports what could not be written. Returns the exit code of a failure then, since a reader would miss that part.
pub(crate) fn exit_code(code: ExitCode) -> ExitCode {
    let lost = std::mem::take(&mut *LOST.lock().unwrap_or_else(PoisonError::into_inner));
    for (place, failure) in &lost {
        match place {
            Place::Stdout => error(format_args!("cannot write to standard output: {failure}; a part of it is lost")),
            Place::File => {
                let file = SINK.get().and_then(|sink| sink.options.file.as_deref()).unwrap_or(Path::new(""));
                error(format_args!("cannot write the log '{}': {failure}; a part of it is lost", file.display()));
            }
        }
    }
    if lost.is_empty() { code } else { ExitCode::FAILURE }
}

struct Sink {
    options: LogOptions,
    file: Option<File>,
    colors: bool,
    start: Instant,
}

/// Sets up the log, once. What is logged before is lost.
pub(crate) fn init(options: &LogOptions, verbosity: i32) -> anyhow::Result<()> {
    VERBOSITY.store(verbosity, Ordering::Relaxed);
    let open = |path: &std::path::Path| {
        File::create(path).with_context(|| format!("cannot write the log '{}'", path.display()))
    };
    let file = options.file.as_deref().map(open).transpose()?;
    let colors = !options.jsonl
        && options.colors.unwrap_or_else(|| {
            let set = |name| std::env::var_os(name).is_some_and(|value: std::ffi::OsString| !value.is_empty());
            let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
            std::io::stderr().is_terminal() && !set("NO_COLOR") && !dumb
        });
    progress::set_disabled(options.disable);
    let _ = SINK.set(Sink { options: options.clone(), file, colors, start: Instant::now() });
    Ok(())
}

pub(crate) fn verbosity() -> i32 {
    VERBOSITY.load(Ordering::Relaxed)
}

/// Returns true if the log, and the progress bar, have colors.
pub(crate) fn colors() -> bool {
    SINK.get().is_some_and(|sink| sink.colors)
}

pub(crate) fn error(message: fmt::Arguments<'_>) {
    line(level::ERROR, "error: ", message);
}

pub(crate) fn warn(message: fmt::Arguments<'_>) {
    line(level::WARN, "warning: ", message);
}

pub(crate) fn info(message: fmt::Arguments<'_>) {
    line(level::INFO, "", message);
}

pub(crate) fn debug(message: fmt::Arguments<'_>) {
    line(level::DEBUG, "", message);
}

/// Writes data to standard output.
pub(crate) fn output(text: fmt::Arguments<'_>) {
    if level::OUTPUT <= verbosity() {
        emit(Kind::Output, "", &text.to_string());
    }
}

/// Writes data to the log's file alone: what the progress bar shows on the same terminal.
pub(crate) fn output_to_file(text: fmt::Arguments<'_>) {
    match SINK.get() {
        Some(sink) if !sink.options.jsonl => {
            if level::OUTPUT <= verbosity() && !sink.options.disable {
                sink.to_file(&text.to_string());
            }
        }
        _ => output(text),
    }
}

/// Writes to standard error, whatever the options say.
pub(crate) fn raw(text: fmt::Arguments<'_>) {
    // A closed standard error is no reason to stop.
    progress::suspended(|| {
        let _ = std::io::stderr().lock().write_fmt(text);
    });
}

fn line(level: i32, word: &str, message: fmt::Arguments<'_>) {
    if level <= verbosity() {
        emit(Kind::of(level), word, &format!("{message}\n"));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Output,
    Error,
    Warn,
    Info,
    Debug,
    /// Continues the piece before.
    #[cfg(feature = "llama")]
    More,
}

impl Kind {
    fn of(level: i32) -> Self {
        match level {
            level::ERROR => Self::Error,
            level::WARN => Self::Warn,
            level::DEBUG => Self::Debug,
            _ => Self::Info,
        }
    }

    /// llama.cpp's letter, color and name.
    fn marks(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Output => ("", "", "none"),
            Self::Error => ("E ", "\x1b[31m", "error"),
            Self::Warn => ("W ", "\x1b[35m", "warn"),
            Self::Info => ("I ", "", "info"),
            Self::Debug => ("D ", "\x1b[33m", "debug"),
            #[cfg(feature = "llama")]
            Self::More => ("", "", "cont"),
        }
    }
}

/// Whole lines or pieces of them, above the progress bar.
fn emit(kind: Kind, word: &str, text: &str) {
    let Some(sink) = SINK.get() else { return raw(format_args!("{word}{text}")) };
    if sink.options.disable {
        return;
    }
    let time = sink.start.elapsed();
    if sink.options.jsonl {
        let json = json(kind, time, text);
        note(Place::Stdout, write(&mut std::io::stdout(), &json));
        sink.to_file(&json);
        return;
    }
    let plain = sink.render(kind, word, text, time, false);
    sink.to_file(&plain);
    if kind == Kind::Output {
        note(Place::Stdout, write(&mut std::io::stdout(), &plain));
    } else {
        let shown = if sink.colors { sink.render(kind, word, text, time, true) } else { plain };
        // A closed standard error is no reason to stop, and nobody could be told.
        progress::suspended(|| {
            let _ = write(&mut std::io::stderr(), &shown);
        });
    }
}

fn write(to: &mut impl Write, text: &str) -> std::io::Result<()> {
    to.write_all(text.as_bytes()).and_then(|()| to.flush())
}

impl Sink {
    fn to_file(&self, text: &str) {
        if let Some(mut file) = self.file.as_ref() {
            note(Place::File, file.write_all(text.as_bytes()));
        }
    }

    fn render(&self, kind: Kind, word: &str, text: &str, time: Duration, colors: bool) -> String {
        let (letter, color, _) = kind.marks();
        let begins = !letter.is_empty();
        let mut head = String::new();
        if begins && self.options.timestamps {
            head = format!("{} ", stamp(time));
        }
        head += if self.options.prefix { letter } else { word };
        if !colors || color.is_empty() {
            return head + text;
        }
        let body = text.trim_end_matches('\n');
        format!("{head}{color}{body}\x1b[0m{}", &text[body.len()..])
    }
}

/// Minutes, seconds, milliseconds, microseconds.
fn stamp(time: Duration) -> String {
    let micros = time.as_micros();
    format!("{}.{:02}.{:03}.{:03}", micros / 60_000_000, micros / 1_000_000 % 60, micros / 1000 % 1000, micros % 1000)
}

/// A line as llama.cpp writes it.
fn json(kind: Kind, time: Duration, text: &str) -> String {
    let mut message = String::with_capacity(text.len() + 2);
    for c in text.chars() {
        match c {
            '"' => message += "\\\"",
            '\\' => message += "\\\\",
            '\n' => message += "\\n",
            '\r' => message += "\\r",
            '\t' => message += "\\t",
            c if c < ' ' => message.extend(format!("\\u{:04x}", u32::from(c)).chars()),
            c => message.push(c),
        }
    }
    let (_, _, level) = kind.marks();
    format!(r#"{{"type":"log","time":{},"level":"{level}","msg":"{message}"}}"#, time.as_micros()) + "\n"
}

/// Shows llama.cpp's own log at the levels llama.cpp's tools show it: its information is trace to them.
#[cfg(feature = "llama")]
pub(crate) fn forward_llama_log() {
    use llama_imatrix::llama::{Level, set_log};
    set_log(|level, text| {
        // llama.cpp pads the chunks of a context to 256 positions each, and then warns of its own padding.
        let level = if text.contains("n_ctx is not divisible by n_seq_max") { Level::Info } else { level };
        let (level, kind) = match level {
            Level::Error => (level::ERROR, Kind::Error),
            Level::Warn => (level::WARN, Kind::Warn),
            Level::Debug => (level::DEBUG, Kind::Debug),
            Level::Continue => (level::TRACE, Kind::More),
            Level::Info => (level::TRACE, Kind::Info),
        };
        if level <= verbosity() && !hold(kind, text) {
            emit(kind, "", text);
        }
    });
}

/// llama.cpp's error lines during a call whose own error repeats them.
#[cfg(feature = "llama")]
static HELD: Mutex<Option<Vec<String>>> = Mutex::new(None);

/// Keeps an error line back if such a call is running. Who asked for llama.cpp's log sees every line where it belongs.
#[cfg(feature = "llama")]
fn hold(kind: Kind, text: &str) -> bool {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    match held.as_mut() {
        Some(lines) if kind == Kind::Error && verbosity() < level::TRACE => {
            lines.push(text.to_owned());
            true
        }
        _ => false,
    }
}

/// Runs a call whose error carries llama.cpp's error lines, so that they are not shown twice. If it succeeds, they are shown.
#[cfg(feature = "llama")]
pub(crate) fn without_repeated_errors<T, E>(call: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let replace = |lines| std::mem::replace(&mut *HELD.lock().unwrap_or_else(PoisonError::into_inner), lines);
    replace(Some(Vec::new()));
    let result = call();
    let held = replace(None).unwrap_or_default();
    if result.is_ok() {
        for line in &held {
            emit(Kind::Error, "", line);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_json_are_llama_cpps() {
        assert_eq!(stamp(Duration::from_micros(61_002_003)), "1.01.002.003");
        assert_eq!(
            json(Kind::Warn, Duration::from_micros(7), "say \"hi\"\\\n\u{1}"),
            "{\"type\":\"log\",\"time\":7,\"level\":\"warn\",\"msg\":\"say \\\"hi\\\"\\\\\\n\\u0001\"}\n"
        );
    }

    #[test]
    fn colors_end_before_the_line_does() {
        let sink = Sink {
            options: LogOptions { prefix: true, ..Default::default() },
            file: None,
            colors: true,
            start: Instant::now(),
        };
        assert_eq!(sink.render(Kind::Error, "error: ", "no\n", Duration::ZERO, true), "E \x1b[31mno\x1b[0m\n");
        assert_eq!(sink.render(Kind::Output, "", "1,", Duration::ZERO, true), "1,");
    }
}
