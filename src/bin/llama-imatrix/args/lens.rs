//! What the run says about the model's layers, beside the matrix.

use super::table::{Flag, Set};

pub(super) static FLAGS: &[Flag] = &[
    Flag::switch(&["--logit-lens"], "Say how near each layer's output is to the model's final prediction", |flags| {
        flags.logit_lens = true;
    })
    .ours()
    .same_bits(),
    Flag::switch(&["--logit-prism"], "Say what each attention and feed-forward part adds to the logits", |flags| {
        flags.logit_prism = true;
    })
    .ours()
    .same_bits(),
    Flag::switch(&["--layer-similarity"], "Say how much each layer turns its input", |flags| {
        flags.layer_similarity = true;
    })
    .ours()
    .same_bits(),
    Flag::int(&["--lens-tokens"], "Look at N positions of each chunk for these three (32)", |flags, n| {
        flags.lens_tokens = usize::try_from(n).ok().filter(|&n| n > 0).ok_or(format!("{n} is below 1"))?;
        Ok(())
    })
    .ours()
    .same_bits(),
    Flag::new(
        &["--lens-seed"],
        "SEED",
        "What the positions are drawn with (0)",
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
        "Hold --logit-lens against the predictions that llama-perplexity --save-all-logits wrote, such as those of the \
         model before it was quantized",
        Set::Raw(|flags, value| {
            flags.kl_divergence_base = Some(value.into());
            Ok(())
        }),
    )
    .ours()
    .same_bits(),
];
