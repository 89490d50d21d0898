//! Flags of the model: its source, loading, devices, adapters.

use std::path::PathBuf;

use llama_imatrix::options::{GpuLayers, LazyMode, LoadMode, OverrideValue, SplitMode};

use super::bits::Key;
use super::choices::Choice as _;
use super::csv::split_csv;
use super::table::{Checked, Flag, Set};

/// Names of the weights of routed experts, and of dense feed-forward layers.
const EXPERTS: &str = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps";
const DENSE: &str = r"\.ffn_(up|down|gate)\.";

pub(super) static FLAGS: &[Flag] = &[
    Flag::new(
        &["-m", "--model"],
        "FNAME",
        "Model to evaluate, a GGUF file",
        Set::Raw(|flags, value| {
            // An empty name counts as none, as in llama.cpp's tool.
            flags.model = (!value.is_empty()).then(|| value.into());
            Ok(())
        }),
    )
    .env("LLAMA_ARG_MODEL")
    .key(Key::Model),
    Flag::new(
        &["-mu", "--model-url"],
        "URL",
        "Download the model, to --model or into the cache (if built with the feature `download`)",
        Set::Text(|flags, value| {
            flags.remote.url = named(value);
            Ok(())
        }),
    )
    .env("LLAMA_ARG_MODEL_URL")
    .key(Key::Model),
    Flag::new(
        &["-dr", "--docker-repo"],
        "[REPO/]MODEL[:TAG]",
        "Download the model from Docker Hub; the default repository is ai, the default tag latest (if built with the feature `download`)",
        Set::Text(|flags, value| {
            flags.remote.docker_repo = named(value);
            Ok(())
        }),
    )
    .env("LLAMA_ARG_DOCKER_REPO")
    .key(Key::Model),
    Flag::new(
        &["-hf", "-hfr", "--hf-repo"],
        "USER/MODEL[:QUANT]",
        "Download the model from Hugging Face: quantization QUANT, or else Q4_K_M, Q8_0 or the first file (if built with the feature `download`)",
        Set::Text(|flags, value| {
            flags.remote.hf_repo = named(value);
            Ok(())
        }),
    )
    .env("LLAMA_ARG_HF_REPO")
    .key(Key::Model),
    Flag::new(
        &["-hff", "--hf-file"],
        "FILE",
        "File of --hf-repo to download",
        Set::Text(|flags, value| {
            flags.remote.hf_file = named(value);
            Ok(())
        }),
    )
    .env("LLAMA_ARG_HF_FILE")
    .key(Key::Model),
    Flag::new(
        &["-hft", "--hf-token"],
        "TOKEN",
        "Hugging Face access token; sent to no other host",
        Set::Text(|flags, value| {
            flags.remote.hf_token = named(value);
            Ok(())
        }),
    )
    .env("HF_TOKEN")
    .same_bits(),
    Flag::switch(
        &["--offline"],
        "Use only the cached model and download nothing; --rpc still connects, as in llama.cpp's tool",
        |flags| flags.remote.offline = true,
    )
    .env("LLAMA_ARG_OFFLINE")
    .same_bits(),
    Flag::new(
        &["-ngl", "--gpu-layers", "--n-gpu-layers"],
        "N",
        "Layers to hold on devices other than the CPU: a number, auto or all (auto)",
        Set::Text(|flags, value| {
            flags.gpu_layers = match value {
                "auto" | "-1" => GpuLayers::Auto,
                "all" => GpuLayers::All,
                number => match number.parse::<i32>() {
                    Ok(n) => u32::try_from(n).map_or(GpuLayers::All, GpuLayers::Count),
                    Err(_) => return Err(format!("--n-gpu-layers takes a number, 'auto' or 'all', found '{number}'")),
                },
            };
            Ok(())
        }),
    )
    .env("LLAMA_ARG_N_GPU_LAYERS")
    .named("n-gpu-layers"),
    Flag::new(
        &["-dev", "--device"],
        "DEV,..",
        "Devices that hold layers, by the names that --list-devices shows; none for the CPU only (all)",
        Set::Text(|flags, value| {
            let names: Vec<_> = value.split(',').map(str::to_owned).collect();
            flags.devices = Some(if names == ["none"] { Vec::new() } else { names });
            Ok(())
        }),
    )
    .env("LLAMA_ARG_DEVICE")
    .named("device"),
    Flag::new(
        &["--rpc"],
        "HOST:PORT,..",
        "RPC servers whose devices the run uses",
        Set::Text(|flags, value| {
            flags.rpc.extend(value.split(',').map(str::to_owned));
            Ok(())
        }),
    )
    .env("LLAMA_ARG_RPC")
    .named("rpc"),
    Flag::int(
        &["--rpc-timeout"],
        "End the run if an RPC server does not answer for N seconds; 0: never (60)",
        |flags, n| {
            flags.rpc_timeout = u32::try_from(n).map_err(|_| format!("{n} is below 0"))?;
            Ok(())
        },
    )
    .ours()
    .same_bits(),
    Flag::new(
        &["-sm", "--split-mode"],
        "HOW",
        "Split the model over devices: not at all, by layers, by rows of matrices, or by matrices and cache (layer)",
        Set::Choice(SplitMode::WORDS, |flags, mode| {
            flags.split_mode = SplitMode::parse(mode)?;
            Ok(())
        }),
    )
    .env("LLAMA_ARG_SPLIT_MODE")
    .named("split-mode"),
    Flag::new(
        &["-ts", "--tensor-split"],
        "N0,N1,..",
        "Proportions of the devices' shares (by their free memory)",
        Set::Text(|flags, value| {
            let number = |text: &str| text.trim().parse().map_err(|_| format!("'{text}' is not a number"));
            flags.tensor_split =
                value.split([',', '/']).filter(|text| !text.is_empty()).map(number).collect::<Result<_, _>>()?;
            Ok(())
        }),
    )
    .env("LLAMA_ARG_TENSOR_SPLIT")
    .named("split-mode"),
    Flag::int(&["-mg", "--main-gpu"], "Device that holds everything that is not split (0)", |flags, n| {
        flags.main_gpu = n;
        Ok(())
    })
    .value("INDEX")
    .env("LLAMA_ARG_MAIN_GPU")
    .named("split-mode"),
    Flag::new(
        &["-ot", "--override-tensor"],
        "PATTERN=BUFFER,..",
        "Buffer type for tensors whose names match a regular expression; the first match counts",
        Set::Text(|flags, value| {
            for item in value.split(',') {
                let (pattern, buffer) =
                    item.split_once('=').ok_or_else(|| format!("invalid value '{item}', not PATTERN=BUFFER"))?;
                flags.override_tensor.push((pattern.to_owned(), buffer.to_owned()));
            }
            Ok(())
        }),
    )
    .env("LLAMA_ARG_OVERRIDE_TENSOR")
    .named("override-tensor"),
    Flag::switch(&["-cmoe", "--cpu-moe"], "Keep the weights of all experts on the CPU", |flags| {
        flags.override_tensor.push((EXPERTS.to_owned(), "CPU".to_owned()));
    })
    .env("LLAMA_ARG_CPU_MOE")
    .named("override-tensor"),
    Flag::int(&["-ncmoe", "--n-cpu-moe"], "Keep the weights of the experts of the first N layers on the CPU", |flags, n| {
        keep_on_cpu(&mut flags.override_tensor, n, EXPERTS)
    })
    .env("LLAMA_ARG_N_CPU_MOE")
    .named("override-tensor"),
    Flag::int(
        &["-ncffn", "--n-cpu-ffn"],
        "Keep the dense feed-forward weights of the first N layers on the CPU",
        |flags, n| keep_on_cpu(&mut flags.override_tensor, n, DENSE),
    )
    .env("LLAMA_ARG_N_CPU_FFN")
    .named("override-tensor"),
    Flag::int(&["--moe-cache-mib"], "Size of a device's cache for experts that are on the CPU", |flags, n| {
        flags.moe_cache_mib = u32::try_from(n).map(|_| n).map_err(|_| format!("invalid value {n}, below 0"))?;
        Ok(())
    })
    .env("LLAMA_ARG_MOE_CACHE_MIB")
    .ignored("the linked llama.cpp has no such cache, which would change speed only; warns"),
    Flag::new(
        &["-fit", "--fit"],
        "on|off",
        "Choose unset options so that the model fits into the devices' memory",
        Set::OnOff(|flags, on| flags.fit = Some(on)),
    )
    .env("LLAMA_ARG_FIT")
    .ignored("llama.cpp's library does not have it: use -ngl, -ts and -ot; no effect on a CPU"),
    Flag::new(
        &["-fitt", "--fit-target"],
        "MiB0,MiB1,..",
        "Memory that --fit leaves free",
        Set::Text(|_, value| {
            let right = value.split([',', '/']).all(|text| text.parse::<u64>().is_ok());
            if right { Ok(()) } else { Err(format!("invalid value '{value}'")) }
        }),
    )
    .env("LLAMA_ARG_FIT_TARGET")
    .ignored("see --fit"),
    Flag::int(&["-fitc", "--fit-ctx"], "Smallest context that --fit may choose", |_, _| Ok(()))
        .env("LLAMA_ARG_FIT_CTX")
        .ignored("see --fit; the size of chunks is never chosen"),
    Flag::new(
        &["-lm", "--load-mode"],
        "MODE",
        "Load weights by mapping the file if all devices support it (auto), reading it (none), mapping it, locking it in memory, or \
         direct I/O",
        Set::Choice(LoadMode::WORDS, |flags, mode| {
            flags.load_mode = LoadMode::parse(mode)?;
            Ok(())
        }),
    )
    .env("LLAMA_ARG_LOAD_MODE")
    .same_bits(),
    Flag::new(
        &["-lzm", "--lazy-mode"],
        "MODE",
        "Read rows of large tables, such as per-layer embeddings, when they are needed: always, above 4 GiB (auto), never",
        Set::Choice(LazyMode::WORDS, |flags, mode| {
            flags.lazy_mode = LazyMode::parse(mode)?;
            Ok(())
        }),
    )
    .env("LLAMA_ARG_LAZY_MODE")
    .named("lazy-mode"),
    Flag::toggle(
        &["--repack"],
        &["-nr", "--no-repack"],
        "Repack weights for the CPU if that is faster (yes)",
        |flags, on| flags.no_repack = !on,
    )
    .env("LLAMA_ARG_REPACK")
    .named("no-repack"),
    Flag::switch(&["--no-host"], "Bypass the devices' host buffers, so that other buffers can be used", |flags| {
        flags.no_host = true;
    })
    .env("LLAMA_ARG_NO_HOST")
    .named("no-host"),
    Flag::switch(&["--check-tensors"], "Check the model's weights for invalid values", |flags| {
        flags.check_tensors = true;
    })
    .same_bits(),
    Flag::new(
        &["--override-kv"],
        "KEY=TYPE:VALUE,..",
        "Replace metadata of the model; types are int, float, bool and str",
        Set::Text(|flags, value| {
            for item in split_csv(value) {
                let item = parse_override(&item).ok_or_else(|| format!("Invalid type for KV override: {item}"))?;
                flags.override_kv.push(item);
            }
            Ok(())
        }),
    )
    .named("override-kv"),
    Flag::new(
        &["--lora"],
        "FNAME,..",
        "Apply LoRA adapters",
        Set::Text(|flags, value| {
            flags.lora.extend(split_csv(value).into_iter().map(|file| (PathBuf::from(file), 1.0)));
            Ok(())
        }),
    )
    .named("lora"),
    Flag::new(
        &["--lora-scaled"],
        "FNAME:SCALE,..",
        "Apply LoRA adapters, each times its scale",
        Set::Text(|flags, value| add_scaled(&mut flags.lora, value, "lora-scaled")),
    )
    .named("lora"),
    Flag::new(
        &["--control-vector"],
        "FNAME,..",
        "Add control vectors",
        Set::Text(|flags, value| {
            flags.control_vectors.extend(split_csv(value).into_iter().map(|file| (PathBuf::from(file), 1.0)));
            Ok(())
        }),
    )
    .named("control-vector"),
    Flag::new(
        &["--control-vector-scaled"],
        "FNAME:SCALE,..",
        "Add control vectors, each times its scale",
        Set::Text(|flags, value| add_scaled(&mut flags.control_vectors, value, "control-vector-scaled")),
    )
    .named("control-vector"),
    Flag::new(
        &["--control-vector-layer-range"],
        "START END",
        "First and last layer that control vectors are added to (all)",
        Set::Pair(|flags, start, end| {
            let number = |text: &str| text.parse().map_err(|_| format!("'{text}' is not a whole number"));
            flags.control_vector_layers = (number(start)?, number(end)?);
            Ok(())
        }),
    )
    .named("control-vector"),
];

/// Adds a rule for each of the first `n` layers.
fn keep_on_cpu(overrides: &mut Vec<(String, String)>, n: i32, weights: &str) -> Checked {
    let n = u16::try_from(n).map_err(|_| format!("invalid value {n}, not from 0 to {}", u16::MAX))?;
    overrides.extend((0..n).map(|layer| (format!(r"blk\.{layer}{weights}"), "CPU".to_owned())));
    Ok(())
}

fn add_scaled(files: &mut Vec<(PathBuf, f32)>, value: &str, flag: &str) -> Checked {
    for item in split_csv(value) {
        let wrong = || format!("{flag} format: FNAME:SCALE, found '{item}'");
        let (file, scale) = item.rsplit_once(':').ok_or_else(wrong)?;
        files.push((PathBuf::from(file), scale.parse().map_err(|_| wrong())?));
    }
    Ok(())
}

/// A name of no letters is none.
fn named(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// `KEY=TYPE:VALUE`
fn parse_override(item: &str) -> Option<(String, OverrideValue)> {
    let (key, rest) = item.split_once('=')?;
    let (kind, value) = rest.split_once(':')?;
    let value = match kind {
        "int" => OverrideValue::Int(value.parse().ok()?),
        "float" => OverrideValue::Float(value.parse().ok()?),
        "bool" => OverrideValue::Bool(value.parse().ok()?),
        "str" if value.len() < 128 => OverrideValue::Text(value.to_owned()),
        _ => return None,
    };
    (!key.is_empty() && key.len() < 128).then(|| (key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_have_four_types() {
        assert_eq!(parse_override("a.b=int:-3"), Some(("a.b".into(), OverrideValue::Int(-3))));
        assert_eq!(parse_override("a=float:1.5"), Some(("a".into(), OverrideValue::Float(1.5))));
        assert_eq!(parse_override("a=bool:true"), Some(("a".into(), OverrideValue::Bool(true))));
        assert_eq!(parse_override("a=str:x=y:z"), Some(("a".into(), OverrideValue::Text("x=y:z".into()))));
        for bad in ["a", "a=1", "a=int:x", "a=bool:1", "a=long:1", "=int:1"] {
            assert_eq!(parse_override(bad), None, "{bad}");
        }
        assert_eq!(parse_override(&format!("a=str:{}", "x".repeat(128))), None);
        assert_eq!(parse_override(&format!("{}=int:1", "x".repeat(128))), None);
    }

    #[test]
    fn the_scale_follows_the_last_colon() {
        let mut files = Vec::new();
        add_scaled(&mut files, "a:0.5,c:/b:-2", "lora-scaled").unwrap();
        assert_eq!(files, [("a".into(), 0.5), ("c:/b".into(), -2.0)]);
        assert!(add_scaled(&mut files, "a", "lora-scaled").unwrap_err().contains("lora-scaled format: FNAME:SCALE"));
    }
}
