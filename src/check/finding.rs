//! Findings and the verdict that follows from them.

use serde::Serialize;

use super::Coverage;
use crate::mixture::FileType;

/// The weight of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The matrix will not do.
    Error,
    /// A part of the model is quantized without data, or with little.
    Gap,
    /// Worth knowing, and as expected.
    Note,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Weight of the finding.
    pub level: Level,
    /// Short name for programs, such as `wrong-size`. `docs/check.md` lists them.
    pub code: &'static str,
    /// What was found, in one sentence.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Names of the weights that it concerns.
    pub weights: Vec<String>,
}

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// Every weight that needs data has data.
    #[serde(rename = "good")]
    Good,
    /// The matrix can be used, but parts of the model are quantized without data or with little.
    #[serde(rename = "gaps")]
    Gaps,
    /// The matrix cannot be used.
    #[serde(rename = "unusable")]
    Unusable,
}

impl Verdict {
    /// Returns the exit code of the command.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Unusable => 1,
            Self::Gaps => 2,
        }
    }
}

/// The findings so far.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn add(&mut self, level: Level, code: &'static str, weights: Vec<String>, text: String) -> &mut Self {
        self.0.push(Finding { level, code, text, hint: None, weights });
        self
    }

    /// Adds a hint to the last finding.
    pub(super) fn hint(&mut self, hint: impl Into<String>) {
        if let Some(last) = self.0.last_mut() {
            last.hint = Some(hint.into());
        }
    }

    /// Returns the verdict, its line and the findings, the most serious first.
    pub(super) fn judge(self, file_type: Option<FileType>, coverage: Coverage) -> (Verdict, String, Vec<Finding>) {
        let mut all = self.0;
        all.sort_by_key(|finding| finding.level);
        let goal = file_type.map_or_else(String::new, |file_type| format!(" for {file_type}"));
        let more = |level| match all.iter().filter(|finding| finding.level == level).count() {
            0 | 1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        let (verdict, summary) = match all.first() {
            Some(first) if first.level == Level::Error => {
                (Verdict::Unusable, format!("will not do{goal}: {}{}", first.text, more(Level::Error)))
            }
            Some(first) if first.level == Level::Gap => {
                let share = 100.0 * coverage.share_without_data();
                let gaps = format!("{}{}", first.text, more(Level::Gap));
                (
                    Verdict::Gaps,
                    format!("will do{goal}, with gaps: {gaps}; {share:.2} % of the parameters without data"),
                )
            }
            _ => {
                let Coverage { tensors, tensors_with_data: with, .. } = coverage;
                let summary = if with == tensors {
                    format!("will do{goal}: all {tensors} weights that use a matrix have data")
                } else {
                    format!(
                        "will do{goal}: {with} of {tensors} weights that use a matrix have data; see the notes for the others"
                    )
                };
                (Verdict::Good, summary)
            }
        };
        (verdict, summary, all)
    }
}

/// Returns the first names and the number of the others.
pub(super) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Returns `1 weight has` or `3 weights have`.
pub(super) fn weights_have(n: usize) -> String {
    if n == 1 { "1 weight has".to_owned() } else { format!("{n} weights have") }
}
