//! The model: where it comes from, how it is loaded, which devices hold it, what is added to it.

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
        "The model to evaluate, a GGUF file",
        Set::Raw(|flags, value| {
            // As with llama.cpp's tool, a name of no letters is none.
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
        "Download the model from Docker Hub, of ai/ and latest if nothing else is named (if built with the feature `download`)",
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
        "Download the model from Hugging Face: the quantization named, else Q4_K_M, Q8_0 or the first file (if built with the feature `download`)",
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
        "Which file of --hf-repo",
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
        "Take the model from the cache alone, download nothing; --rpc connects all the same, as with llama.cpp's tool",
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
        "The devices layers go to, by the names that --list-devices shows; none for the CPU alone (all)",
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
        "Servers that lend their devices",
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
        "What goes to several devices: none of it, layers, rows of matrices, or matrices and cache (layer)",
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
        "Each device's share, in proportion (after their free memory)",
        Set::Text(|flags, value| {
            let number = |text: &str| text.trim().parse().map_err(|_| format!("'{text}' is not a number"));
            flags.tensor_split =
                value.split([',', '/']).filter(|text| !text.is_empty()).map(number).collect::<Result<_, _>>()?;
            Ok(())
        }),
    )
    .env("LLAMA_ARG_TENSOR_SPLIT")
    .named("split-mode"),
    Flag::int(&["-mg", "--main-gpu"], "The device that holds what is not split (0)", |flags, n| {
        flags.main_gpu = n;
        Ok(())
    })
    .value("INDEX")
    .env("LLAMA_ARG_MAIN_GPU")
    .named("split-mode"),
    Flag::new(
        &["-ot", "--override-tensor"],
        "PATTERN=BUFFER,..",
        "Put tensors whose names match a regular expression into a memory, by its name; the first match counts",
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
    Flag::switch(&["-cmoe", "--cpu-moe"], "Keep all experts' weights on the CPU", |flags| {
        flags.override_tensor.push((EXPERTS.to_owned(), "CPU".to_owned()));
    })
    .env("LLAMA_ARG_CPU_MOE")
    .named("override-tensor"),
    Flag::int(&["-ncmoe", "--n-cpu-moe"], "Keep the experts' weights of the first N layers on the CPU", |flags, n| {
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
    Flag::int(&["--moe-cache-mib"], "A device's cache for experts that the CPU keeps", |flags, n| {
        flags.moe_cache_mib = u32::try_from(n).map(|_| n).map_err(|_| format!("invalid value {n}, below 0"))?;
        Ok(())
    })
    .env("LLAMA_ARG_MOE_CACHE_MIB")
    .ignored("the llama.cpp that is linked has no such cache; it would change speed, not results; a warning says so"),
    Flag::new(
        &["-fit", "--fit"],
        "on|off",
        "Choose what was not given so that it fits into the devices' memory",
        Set::OnOff(|flags, on| flags.fit = Some(on)),
    )
    .env("LLAMA_ARG_FIT")
    .ignored("llama.cpp's library does not offer it; -ngl, -ts and -ot say what goes where; on a CPU it does nothing"),
    Flag::new(
        &["-fitt", "--fit-target"],
        "MiB0,MiB1,..",
        "Memory for --fit to leave free",
        Set::Text(|_, value| {
            let right = value.split([',', '/']).all(|text| text.parse::<u64>().is_ok());
            if right { Ok(()) } else { Err(format!("invalid value '{value}'")) }
        }),
    )
    .env("LLAMA_ARG_FIT_TARGET")
    .ignored("see --fit"),
    Flag::int(&["-fitc", "--fit-ctx"], "The smallest context for --fit to choose", |_, _| Ok(()))
        .env("LLAMA_ARG_FIT_CTX")
        .ignored("see --fit; the size of chunks is never chosen"),
    Flag::new(
        &["-lm", "--load-mode"],
        "MODE",
        "How weights get into memory: mapped if all devices can (auto), read (none), mapped, locked there, past the \
         system's cache",
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
        "Read rows of big tables as they are needed, such as per-layer embeddings: always, above 4 GiB (auto), never",
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
        "Reorder weights for the CPU where that is faster (yes)",
        |flags, on| flags.no_repack = !on,
    )
    .env("LLAMA_ARG_REPACK")
    .named("no-repack"),
    Flag::switch(&["--no-host"], "Bypass the devices' host buffers, so that others can be used", |flags| {
        flags.no_host = true;
    })
    .env("LLAMA_ARG_NO_HOST")
    .named("no-host"),
    Flag::switch(&["--check-tensors"], "Look for invalid values while loading", |flags| {
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
        "The first and the last layer they are added in (all)",
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
