//! The flags that decide bits, in the fingerprint of a run: what the rows of the table name, and the values.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Context as _;
use llama_imatrix::state::Digest;

use super::bits::Bits;
use super::choices::Choice as _;
use super::groups::flags;
use super::lowargs::Flags;
use llama_imatrix::options::{LazyMode, RopeScaling, SumOn};

/// Returns the fingerprint's value for the flags of one name; `None` if it does not mention them.
type Value = fn(&Flags) -> anyhow::Result<Option<String>>;

/// Names and values of the fingerprint's flags.
///
/// Files of earlier versions lack what was added since, so a new name is mentioned only where its flag is not at its
/// default: those files then resume as before.
const VALUES: &[(&str, Value)] = &[
    ("ppl", |flags| said(&!flags.no_ppl)),
    ("process-output", |flags| said(&flags.process_output)),
    ("min-rows", |flags| said(&flags.min_rows())),
    ("documents", |flags| where_set(flags.documents, &true)),
    ("shuffle", |flags| where_set(flags.shuffle, &format!("true, --seed {}", flags.seed))),
    ("keep-tail", |flags| said(&flags.keep_tail)),
    ("chunk", |flags| said(&flags.chunk)),
    ("nextn", |flags| said(&flags.collects_nextn())),
    ("flash-attn", |flags| said(&format!("{:?}", flags.flash_attn))),
    ("cache-type-k", |flags| said(&format!("{:?}", flags.cache_type_k.word()))),
    ("cache-type-v", |flags| said(&format!("{:?}", flags.cache_type_v.word()))),
    ("swa-full", |flags| said(&flags.swa_full)),
    ("override-kv", |flags| said(&format!("{:?}", flags.override_kv))),
    ("lora", |flags| adapters(&flags.lora).map(Some)),
    ("control-vector", |flags| {
        said(&format!("{} {:?}", adapters(&flags.control_vectors)?, flags.control_vector_layers))
    }),
    ("rope", |flags| {
        let rope = (flags.rope_freq_base, flags.rope_freq_scale, flags.yarn_ext_factor, flags.yarn_attn_factor);
        let yarn = (flags.yarn_orig_ctx, flags.yarn_beta_fast, flags.yarn_beta_slow);
        said(&format!("{:?} {rope:?} {yarn:?}", flags.rope_scaling.map(RopeScaling::word)))
    }),
    // Where it is computed: each kind of device, and the CPU's repacked weights, round in their own ways.
    ("n-gpu-layers", |flags| said(&format!("{:?}", flags.gpu_layers))),
    ("device", |flags| said(&format!("{:?}", flags.devices))),
    ("split-mode", |flags| said(&format!("{} {:?} {}", flags.split_mode.word(), flags.tensor_split, flags.main_gpu))),
    ("override-tensor", |flags| said(&format!("{:?}", flags.override_tensor))),
    ("rpc", |flags| said(&format!("{} servers", flags.rpc.len()))),
    ("no-repack", |flags| said(&flags.no_repack)),
    ("no-kv-offload", |flags| said(&flags.no_kv_offload)),
    ("no-op-offload", |flags| said(&flags.no_op_offload)),
    ("no-host", |flags| where_set(flags.no_host, &true)),
    ("lazy-mode", |flags| where_set(flags.lazy_mode != LazyMode::Auto, &flags.lazy_mode.word())),
    ("sum-on", |flags| where_set(flags.sum_on != SumOn::Auto, &flags.sum_on.word())),
    // The sums that a run starts from are scaled by it.
    ("legacy-chunk-size", |flags| {
        Ok(flags.legacy_chunk_size.filter(|_| !flags.in_file.is_empty()).map(|n| n.to_string()))
    }),
];

/// Returns the fingerprint's flags: all that change results and have no key in the state file.
///
/// # Errors
/// An adapter that cannot be read.
pub(crate) fn deciding(given: &Flags) -> anyhow::Result<BTreeMap<String, String>> {
    let mut named = BTreeMap::new();
    for name in names().collect::<BTreeSet<_>>() {
        let value = VALUES.iter().find(|(known, _)| *known == name).map(|(_, value)| value(given)).transpose()?;
        if let Some(value) = value.flatten() {
            named.insert(name.to_owned(), value);
        }
    }
    Ok(named)
}

/// The names that rows of the table have.
fn names() -> impl Iterator<Item = &'static str> {
    flags().filter_map(|flag| match flag.bits {
        Bits::Named(name) => Some(name),
        Bits::Unsaid | Bits::Same | Bits::Key(_) => None,
    })
}

#[expect(clippy::unnecessary_wraps, reason = "some values are read from files")]
fn said(value: &dyn ToString) -> anyhow::Result<Option<String>> {
    Ok(Some(value.to_string()))
}

#[expect(clippy::unnecessary_wraps, reason = "some values are read from files")]
fn where_set(is_set: bool, value: &dyn ToString) -> anyhow::Result<Option<String>> {
    Ok(is_set.then(|| value.to_string()))
}

/// Adapters by what is in them, and their scales.
fn adapters(files: &[(PathBuf, f32)]) -> anyhow::Result<String> {
    let known_by = |(path, scale): &(PathBuf, f32)| {
        let digest = Digest::of_files([path]).with_context(|| format!("cannot read '{}'", path.display()))?;
        anyhow::Ok(format!("{scale} of {digest}"))
    };
    Ok(format!("[{}]", files.iter().map(known_by).collect::<anyhow::Result<Vec<_>>>()?.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    /// Words that change the value of each named flag from its default, by its first spelling.
    const CHANGES: &[(&str, &str)] = &[
        ("--chunk", "--chunk 3"),
        ("--control-vector", "--control-vector FILE"),
        ("--control-vector-layer-range", "--control-vector-layer-range 1 2"),
        ("--control-vector-scaled", "--control-vector-scaled FILE:0.5"),
        ("--documents", "--documents"),
        ("--keep-tail", "--keep-tail"),
        ("--legacy-chunk-size", "--in-file a.dat --legacy-chunk-size 256"),
        ("--lora", "--lora FILE"),
        ("--lora-scaled", "--lora-scaled FILE:0.5"),
        ("--min-rows", "--min-rows 3"),
        ("--nextn", "--nextn"),
        ("--no-host", "--no-host"),
        ("--op-offload", "--no-op-offload"),
        ("--override-kv", "--override-kv a=int:1"),
        ("--ppl", "--no-ppl"),
        ("--process-output", "--process-output"),
        ("--repack", "--no-repack"),
        ("--rope-freq-base", "--rope-freq-base 3"),
        ("--rope-freq-scale", "--rope-freq-scale 3"),
        ("--rope-scale", "--rope-scale 3"),
        ("--rope-scaling", "--rope-scaling yarn"),
        ("--rpc", "--rpc a:1"),
        ("--shuffle", "--shuffle"),
        ("--sum-on", "--sum-on device"),
        ("--swa-full", "--swa-full"),
        ("--yarn-attn-factor", "--yarn-attn-factor 3"),
        ("--yarn-beta-fast", "--yarn-beta-fast 3"),
        ("--yarn-beta-slow", "--yarn-beta-slow 3"),
        ("--yarn-ext-factor", "--yarn-ext-factor 3"),
        ("--yarn-orig-ctx", "--yarn-orig-ctx 3"),
        ("-cmoe", "-cmoe"),
        ("-ctk", "-ctk f32"),
        ("-ctv", "-ctv f32"),
        ("-dev", "-dev none"),
        ("-fa", "-fa on"),
        ("-kvo", "-nkvo"),
        ("-lzm", "-lzm on"),
        ("-mg", "-mg 1"),
        ("-ncffn", "-ncffn 1"),
        ("-ncmoe", "-ncmoe 1"),
        ("-ngl", "-ngl 1"),
        ("-ot", "-ot x=CPU"),
        ("-s", "--shuffle --seed 3"),
        ("-sm", "-sm row"),
        ("-ts", "-ts 1,2"),
    ];

    fn deciding_of(words: &str) -> BTreeMap<String, String> {
        let words = words.split_whitespace().map(Into::into);
        deciding(&parse(words, &|_| None, &[]).unwrap().flags).unwrap()
    }

    #[test]
    fn every_flag_says_whether_it_decides_bits() {
        let unsaid: Vec<_> = flags().filter(|flag| flag.bits == Bits::Unsaid).map(|flag| flag.names[0]).collect();
        assert_eq!(unsaid, [""; 0], "each row has .same_bits(), .key() or .named(), or is ignored");
    }

    #[test]
    fn names_in_the_table_are_those_that_have_values() {
        let known: BTreeSet<_> = VALUES.iter().map(|(name, _)| *name).collect();
        assert_eq!(names().collect::<BTreeSet<_>>(), known);
        assert_eq!(known.len(), VALUES.len());
    }

    #[test]
    fn every_flag_that_decides_bits_changes_the_fingerprint() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let plain = deciding_of("");
        let mut missing = Vec::new();
        for flag in flags() {
            let Bits::Named(name) = flag.bits else { continue };
            let Some((_, words)) = CHANGES.iter().find(|(first, _)| *first == flag.names[0]) else {
                missing.push(flag.names[0]);
                continue;
            };
            let changed = deciding_of(&words.replace("FILE", file.path().to_str().unwrap()));
            if changed.get(name) == plain.get(name) {
                missing.push(flag.names[0]);
            }
        }
        assert_eq!(missing, [""; 0], "not in CHANGES, or the value does not change");
        let (seed, other) = (deciding_of("--shuffle --seed 3"), deciding_of("--shuffle --seed 4"));
        assert_ne!(seed, other);
    }

    /// Files of the version before have these and no others.
    #[test]
    fn the_fingerprint_of_a_run_with_defaults_does_not_change() {
        let names: Vec<_> = deciding_of("").into_keys().collect();
        let expected = "cache-type-k cache-type-v chunk control-vector device flash-attn keep-tail lora min-rows n-gpu-layers \
                        nextn no-kv-offload no-op-offload no-repack override-kv override-tensor ppl process-output rope rpc \
                        split-mode swa-full";
        assert_eq!(names.join(" "), expected);
    }

    /// Files of earlier versions hold choices as these texts, and must resume.
    #[test]
    fn choices_are_written_as_in_files_of_earlier_versions() {
        let plain = deciding_of("");
        for (name, value) in [
            ("cache-type-k", "\"f16\""),
            ("flash-attn", "Auto"),
            ("n-gpu-layers", "Auto"),
            ("rope", "None (None, None, None, None) (None, None, None)"),
            ("split-mode", "layer [] 0"),
        ] {
            assert_eq!(plain[name], value, "{name}");
        }
        for (words, name, value) in [
            ("-ctv q8_0", "cache-type-v", "\"q8_0\""),
            ("-lzm on", "lazy-mode", "on"),
            ("--rope-scaling yarn", "rope", "Some(\"yarn\") (None, None, None, None) (None, None, None)"),
            ("-sm tensor", "split-mode", "tensor [] 0"),
            ("--sum-on host", "sum-on", "host"),
        ] {
            assert_eq!(deciding_of(words)[name], value, "{words}");
        }
    }
}
