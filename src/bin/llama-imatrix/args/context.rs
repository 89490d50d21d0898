//! Flags of the context and of evaluation.

use llama_imatrix::options::{CacheType, RopeScaling};

use super::bits::Key;
use super::choices::Choice as _;
use super::lowargs::Ubatch;
use super::table::{Flag, Set};

const NO_GENERATION: &str = "nothing is generated";

pub(super) static FLAGS: &[Flag] = &[
    Flag::int(&["-c", "--ctx-size"], "Tokens per chunk (512)", |flags, n| {
        flags.ctx_size = n;
        Ok(())
    })
    .env("LLAMA_ARG_CTX_SIZE")
    .key(Key::ChunkSize),
    Flag::int(&["-b", "--batch-size"], "Tokens per batch, which has as many whole chunks as fit (2048)", |flags, n| {
        flags.batch_size = Some(n);
        Ok(())
    })
    .env("LLAMA_ARG_BATCH")
    .key(Key::Batch),
    Flag::new(
        &["-ub", "--ubatch-size"],
        "N|auto",
        "Tokens per micro-batch (512). auto: if the model does not fit into memory, as many chunks per batch and micro-batch as \
         memory allows, so that the file is read less often; otherwise 512",
        Set::Text(|flags, value| {
            flags.ubatch_size = Ubatch::parse(value)?;
            Ok(())
        }),
    )
    .env("LLAMA_ARG_UBATCH")
    .key(Key::Ubatch),
    Flag::int(&["-np", "--parallel"], "Number of sequences", |_, _| Ok(()))
        .env("LLAMA_ARG_N_PARALLEL")
        .ignored("it is --batch-size divided by --ctx-size"),
    Flag::new(
        &["-fa", "--flash-attn"],
        "WHEN",
        "Use flash attention: always, never, or if all backends support it (auto)",
        Set::Tristate(|flags, when| flags.flash_attn = when),
    )
    .env("LLAMA_ARG_FLASH_ATTN")
    .named("flash-attn"),
    Flag::new(
        &["-ctk", "--cache-type-k"],
        "TYPE",
        "Type of cached keys (f16)",
        Set::Choice(CacheType::WORDS, |flags, name| {
            flags.cache_type_k = CacheType::parse(name)?;
            Ok(())
        }),
    )
    .env("LLAMA_ARG_CACHE_TYPE_K")
    .named("cache-type-k"),
    Flag::new(
        &["-ctv", "--cache-type-v"],
        "TYPE",
        "Type of cached values (f16)",
        Set::Choice(CacheType::WORDS, |flags, name| {
            flags.cache_type_v = CacheType::parse(name)?;
            Ok(())
        }),
    )
    .env("LLAMA_ARG_CACHE_TYPE_V")
    .named("cache-type-v"),
    Flag::toggle(
        &["-kvo", "--kv-offload"],
        &["-nkvo", "--no-kv-offload"],
        "Keep the cache on the devices that hold the layers (yes)",
        |flags, on| flags.no_kv_offload = !on,
    )
    .env("LLAMA_ARG_KV_OFFLOAD")
    .named("no-kv-offload"),
    Flag::toggle(
        &["--op-offload"],
        &["--no-op-offload"],
        "Compute large batches on a device if the weights are in host memory (yes)",
        |flags, on| flags.no_op_offload = !on,
    )
    .named("no-op-offload"),
    Flag::switch(&["--swa-full"], "Use a full-size cache for layers with sliding-window attention", |flags| {
        flags.swa_full = true;
    })
    .env("LLAMA_ARG_SWA_FULL")
    .named("swa-full"),
    Flag::new(
        &["--rope-scaling"],
        "HOW",
        "Method of scaling RoPE to a longer context (from the model, or else linear)",
        Set::Choice(RopeScaling::WORDS, |flags, how| {
            flags.rope_scaling = Some(RopeScaling::parse(how)?);
            Ok(())
        }),
    )
    .env("LLAMA_ARG_ROPE_SCALING_TYPE")
    .named("rope"),
    Flag::float(&["--rope-scale"], "RoPE: extend the context by a factor of N", |flags, n| {
        flags.rope_freq_scale = Some(1.0 / n);
        Ok(())
    })
    .env("LLAMA_ARG_ROPE_SCALE")
    .named("rope"),
    Flag::float(&["--rope-freq-base"], "RoPE: base frequency (from the model)", |flags, n| {
        flags.rope_freq_base = Some(n);
        Ok(())
    })
    .env("LLAMA_ARG_ROPE_FREQ_BASE")
    .named("rope"),
    Flag::float(&["--rope-freq-scale"], "RoPE: factor on the frequencies, 1/N for --rope-scale N", |flags, n| {
        flags.rope_freq_scale = Some(n);
        Ok(())
    })
    .env("LLAMA_ARG_ROPE_FREQ_SCALE")
    .named("rope"),
    Flag::int(
        &["--yarn-orig-ctx"],
        "YaRN: context length that the model was trained with (0, from the model)",
        |flags, n| {
            flags.yarn_orig_ctx = Some(n);
            Ok(())
        },
    )
    .env("LLAMA_ARG_YARN_ORIG_CTX")
    .named("rope"),
    Flag::float(&["--yarn-ext-factor"], "YaRN: share of extrapolation (-1, from the model)", |flags, n| {
        flags.yarn_ext_factor = Some(n);
        Ok(())
    })
    .env("LLAMA_ARG_YARN_EXT_FACTOR")
    .named("rope"),
    Flag::float(
        &["--yarn-attn-factor"],
        "YaRN: factor on the attention's magnitude (-1, from the model)",
        |flags, n| {
            flags.yarn_attn_factor = Some(n);
            Ok(())
        },
    )
    .env("LLAMA_ARG_YARN_ATTN_FACTOR")
    .named("rope"),
    Flag::float(&["--yarn-beta-slow"], "YaRN: where extrapolation ends (-1, from the model)", |flags, n| {
        flags.yarn_beta_slow = Some(n);
        Ok(())
    })
    .env("LLAMA_ARG_YARN_BETA_SLOW")
    .named("rope"),
    Flag::float(&["--yarn-beta-fast"], "YaRN: where extrapolation begins (-1, from the model)", |flags, n| {
        flags.yarn_beta_fast = Some(n);
        Ok(())
    })
    .env("LLAMA_ARG_YARN_BETA_FAST")
    .named("rope"),
    Flag::toggle(&["--perf"], &["--no-perf"], "Measure and log evaluation times (yes)", |flags, on| {
        flags.no_perf = !on;
    })
    .env("LLAMA_ARG_PERF")
    .same_bits(),
    Flag::new(
        &["-dt", "--defrag-thold"],
        "N",
        "Threshold for defragmenting the cache",
        Set::Text(|flags, _| {
            flags.defrag_thold = true;
            Ok(())
        }),
    )
    .env("LLAMA_ARG_DEFRAG_THOLD")
    .ignored("llama.cpp no longer defragments; warns"),
    Flag::toggle(&["--context-shift"], &["--no-context-shift"], "Shift the context when it is full", |_, _| ())
        .env("LLAMA_ARG_CONTEXT_SHIFT")
        .ignored(NO_GENERATION),
    Flag::int(&["-n", "--predict", "--n-predict"], "Tokens to generate", |_, _| Ok(()))
        .env("LLAMA_ARG_N_PREDICT")
        .ignored(NO_GENERATION),
    Flag::int(&["--keep"], "Tokens to keep when the context is full", |_, _| Ok(())).ignored(NO_GENERATION),
];
