//! Speculative decoding: only the draft model matters to a matrix.

use llama_imatrix::options::CacheType;

use super::bits::Key;
use super::choices::Choice as _;
use super::table::{Flag, Set};

const NO_DRAFT_CACHE: &str =
    "the draft's layers are evaluated with the model's own cache types, as by llama.cpp's tool";

pub(super) static FLAGS: &[Flag] = &[
    Flag::new(
        &["--spec-draft-model", "-md", "--model-draft"],
        "FNAME",
        "Draft model with NextN (MTP) layers; also collect these layers",
        Set::Raw(|flags, value| {
            flags.draft_model = (!value.is_empty()).then(|| value.into());
            Ok(())
        }),
    )
    .env("LLAMA_ARG_SPEC_DRAFT_MODEL")
    .key(Key::Draft),
    Flag::new(
        &["--spec-draft-type-k", "-ctkd", "--cache-type-k-draft"],
        "TYPE",
        "Type of the draft's cached keys",
        Set::Choice(CacheType::WORDS, |_, name| CacheType::parse(name).map(drop)),
    )
    .env("LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K")
    .ignored(NO_DRAFT_CACHE),
    Flag::new(
        &["--spec-draft-type-v", "-ctvd", "--cache-type-v-draft"],
        "TYPE",
        "Type of the draft's cached values",
        Set::Choice(CacheType::WORDS, |_, name| CacheType::parse(name).map(drop)),
    )
    .env("LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V")
    .ignored(NO_DRAFT_CACHE),
];
