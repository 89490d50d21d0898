//! The flags' table: the lists of all topics.

use super::table::Flag;
use super::{common, context, cpu, imatrix, lens, log, model, safety, sampling, speculative};

/// Flags of one topic.
pub(super) struct Group {
    pub(super) title: &'static str,
    pub(super) flags: &'static [Flag],
}

/// All flags, in the order in which help lists them.
pub(super) static GROUPS: &[Group] = &[
    Group { title: "General", flags: common::FLAGS },
    Group { title: "The matrix", flags: imatrix::FLAGS },
    Group { title: "Inspecting the model", flags: lens::FLAGS },
    Group { title: "Long runs", flags: safety::FLAGS },
    Group { title: "The model and its devices", flags: model::FLAGS },
    Group { title: "Context and evaluation", flags: context::FLAGS },
    Group { title: "Threads", flags: cpu::FLAGS },
    Group { title: "The log", flags: log::FLAGS },
    Group { title: "Speculative decoding", flags: speculative::FLAGS },
    Group { title: "Sampling", flags: sampling::FLAGS },
];

/// All flags.
pub(super) fn flags() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|group| group.flags)
}
