//! Measurements of the model's layers.

use super::table::{Flag, Set};

pub(super) static FLAGS: &[Flag] = &[
    Flag::switch(
        &["--logit-lens"],
        "Measure how close each layer's output is to the model's final prediction",
        |flags| {
            flags.logit_lens = true;
        },
    )
    .ours()
    .same_bits(),
    Flag::switch(
        &["--logit-prism"],
        "Measure what each layer, its attention and its feed-forward part add to the logits",
        |flags| {
            flags.logit_prism = true;
        },
    )
    .ours()
    .same_bits(),
    Flag::switch(
        &["--layer-similarity"],
        "Measure how similar each layer's output is to its input, and how far it is from it",
        |flags| {
            flags.layer_similarity = true;
        },
    )
    .ours()
    .same_bits(),
    Flag::int(
        &["--lens-tokens"],
        "Sample N positions per chunk for --logit-lens, --logit-prism and --layer-similarity (32)",
        |flags, n| {
            flags.lens_tokens = usize::try_from(n).ok().filter(|&n| n > 0).ok_or(format!("{n} is below 1"))?;
            Ok(())
        },
    )
    .ours()
    .same_bits(),
    Flag::new(
        &["--lens-seed"],
        "SEED",
        "Seed for sampling these positions (0)",
        Set::Text(|flags, value| {
            flags.lens_seed = value.parse().map_err(|_| "expected a number from 0 on".to_owned())?;
            Ok(())
        }),
    )
    .ours()
    .same_bits(),
    Flag::new(
        &["--kl-divergence-base"],
        "FNAME",
        "Compare --logit-lens with the logits that llama-perplexity --save-all-logits wrote, such as those of the \
         unquantized model",
        Set::Raw(|flags, value| {
            flags.kl_divergence_base = Some(value.into());
            Ok(())
        }),
    )
    .ours()
    .same_bits(),
];
