//! From words to [`Flags`], in the order they come in.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::groups::flags;
use super::parsed::Parsed;
use super::suggest::Refused;
use super::table::{Checked, Flag, Set, Special};
use super::value::{is_falsey, is_truthy, on_or_off, set_value, text};
use super::{config_file, help};

type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Files go first and the environment next, so that the command line has the last word. Where something else is asked
/// for than a run, what they say does not matter.
pub(super) fn parse(
    args: impl Iterator<Item = OsString>,
    env: Env<'_>,
    config_files: &[PathBuf],
) -> Result<Parsed, Refused> {
    let mut parsed = Parsed::default();
    let from_files = config_file::apply(config_files, &mut parsed);
    let from_env = flags().try_for_each(|flag| apply_env(flag, env, &mut parsed));
    // Texts on the command line add to each other, and not to those of a file.
    let text_before = parsed.flags.text.take();
    parse_args(args, env, &mut parsed)?;
    parsed.flags.text = parsed.flags.text.take().or(text_before);
    if parsed.special.is_none() {
        from_files.and(from_env).map_err(Refused::Invalid)?;
    }
    Ok(parsed)
}

/// What a variable says, as llama.cpp reads it: a switch is on where the value says so, and whatever else it says counts
/// for nothing; all others must have a value that is right.
fn apply_env(flag: &Flag, env: Env<'_>, parsed: &mut Parsed) -> Checked {
    if flag.env.is_empty() {
        return Ok(());
    }
    let negated = flag.negated_env().is_some_and(|name| env(&name).is_some());
    let value = if negated { Some("0".into()) } else { env(flag.env) };
    let Some(value) = value else { return Ok(()) };
    let flags = &mut parsed.flags;
    let result = match flag.set {
        Set::Switch(set) => {
            match value.to_str() {
                Some(word) if is_truthy(word) => set(flags),
                Some(word) if is_falsey(word) => {}
                _ => parsed.warnings.push(format!(
                    "environment variable {} has no effect with the value '{}'; 1 turns {} on",
                    flag.env,
                    value.display(),
                    flag.long_name()
                )),
            }
            Ok(())
        }
        Set::Toggle(set) => on_or_off(&value).map(|on| set(flags, on)),
        _ => set_value(flag, flags, &value),
    };
    let hint =
        if value.is_empty() { format!("; it is set without a value, hint: unset {}", flag.env) } else { String::new() };
    result.map_err(|error| format!("error while handling environment variable \"{}\": {error}{hint}\n", flag.env))
}

fn parse_args(mut args: impl Iterator<Item = OsString>, env: Env<'_>, parsed: &mut Parsed) -> Result<(), Refused> {
    let mut seen = HashSet::new();
    let mut is_first = true;
    while let Some(word) = args.next() {
        let (name, attached) = split(&word);
        let is_first = std::mem::take(&mut is_first);
        let Some((flag, positive)) = find(&name) else {
            return Err(Refused::Unknown(if name.starts_with("--") { name.into() } else { word }, is_first));
        };
        if !seen.insert(name.clone()) && !flag.adds_up() {
            parsed.warnings.push(format!(
                "DEPRECATED: argument '{name}' specified multiple times, use comma-separated values instead (only last \
                 value will be used)"
            ));
        }
        if !flag.env.is_empty()
            && (env(flag.env).is_some() || flag.negated_env().is_some_and(|name| env(&name).is_some()))
        {
            crate::ui::log::raw(format_args!(
                "warn: {} environment variable is set, but will be overwritten by command line argument {name}\n",
                flag.env
            ));
        }
        let mut value = || attached.clone().or_else(|| args.next()).ok_or("expected value for argument".to_owned());
        let result = match flag.set {
            // What the flags after it say matters.
            Set::Special(Special::ListDevices) => {
                parsed.special.get_or_insert(Special::ListDevices);
                Ok(())
            }
            Set::Special(_) if parsed.special.is_some() => Ok(()),
            Set::Special(special) => {
                let is_short = special == Special::Help && name == "-h";
                parsed.special = Some(if is_short { Special::ShortHelp } else { special });
                return Ok(());
            }
            Set::Switch(_) | Set::Toggle(_) if attached.is_some() => Err("it takes no value".to_owned()),
            Set::Switch(set) => {
                set(&mut parsed.flags);
                Ok(())
            }
            Set::Toggle(set) => {
                set(&mut parsed.flags, positive);
                Ok(())
            }
            Set::Pair(set) => value().and_then(|first| {
                let second = args.next().ok_or("expected value for argument")?;
                set(&mut parsed.flags, text(&first)?, text(&second)?)
            }),
            _ => value().and_then(|value| set_value(flag, &mut parsed.flags, &value)),
        };
        result.map_err(|error| {
            Refused::Invalid(format!(
                "error while handling argument \"{name}\": {error}\n\nusage:\n{}\n\nto show complete usage, run with --help",
                help::one(flag)
            ))
        })?;
    }
    Ok(())
}

/// A word's name, with `-` for `_` after two dashes, and the value after `=`, if it has one.
fn split(word: &OsStr) -> (String, Option<OsString>) {
    let bytes = word.as_encoded_bytes();
    if !bytes.starts_with(b"--") {
        return (word.to_string_lossy().into_owned(), None);
    }
    let end = bytes.iter().position(|&byte| byte == b'=').unwrap_or(bytes.len());
    let name = String::from_utf8_lossy(&bytes[..end]).replace('_', "-");
    // What precedes the `=` is the name, and `=` is ASCII, so text that is not UTF-8 loses what is not.
    let value = word.to_str().and_then(|text| text.get(end + 1..)).map(OsString::from);
    (name, value)
}

/// The flag of a spelling, and whether the spelling says yes.
pub(super) fn find(name: &str) -> Option<(&'static Flag, bool)> {
    flags().find_map(|flag| {
        if flag.names.contains(&name) {
            Some((flag, true))
        } else {
            flag.negated.contains(&name).then_some((flag, false))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::choices::OutputFormat;
    use super::super::lowargs::{Flags, Text, Tristate, Ubatch};
    use super::*;
    use llama_imatrix::options::GpuLayers;

    fn parse_with(words: &str, env: &[(&str, &str)]) -> Result<Parsed, String> {
        let env: Vec<(String, String)> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let env = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| OsString::from(value));
        parse(words.split_whitespace().map(OsString::from), &env, &[]).map_err(|refused| refused.message(&[]))
    }

    fn parsed(words: &str) -> Flags {
        parse_with(words, &[]).unwrap().flags
    }

    #[test]
    fn spellings_and_variables_of_flags_are_unique() {
        let mut seen = HashSet::new();
        for flag in flags() {
            for spelling in flag.spellings() {
                assert!(spelling.starts_with('-') && seen.insert(spelling.to_owned()), "{spelling}");
            }
            assert!(flag.env.is_empty() || seen.insert(flag.env.to_owned()), "{}", flag.env);
            let takes_none = matches!(flag.set, Set::Switch(_) | Set::Toggle(_) | Set::Special(_));
            assert_eq!(flag.value.is_empty(), takes_none, "{}", flag.names[0]);
            assert_eq!(flag.negated.is_empty(), !matches!(flag.set, Set::Toggle(_)), "{}", flag.names[0]);
        }
    }

    #[test]
    fn a_variable_without_a_value_is_an_error_or_a_warning() {
        for (name, says) in [
            (
                "LLAMA_ARG_CTX_SIZE",
                "'' is not a whole number; it is set without a value, hint: unset LLAMA_ARG_CTX_SIZE",
            ),
            ("LLAMA_ARG_PERF", "invalid boolean value ''; it is set without a value, hint: unset LLAMA_ARG_PERF"),
            ("LLAMA_ARG_CACHE_TYPE_K", "invalid value ''"),
            ("LLAMA_ARG_FLASH_ATTN", "hint: unset LLAMA_ARG_FLASH_ATTN"),
            ("LLAMA_ARG_N_GPU_LAYERS", "hint: unset LLAMA_ARG_N_GPU_LAYERS"),
        ] {
            let error = parse_with("", &[(name, "")]).map_or_else(|error| error, |_| String::new());
            assert!(error.contains(says) && error.contains(name), "{name}: {error}");
        }
        let parsed = parse_with("", &[("LLAMA_ARG_SWA_FULL", ""), ("LLAMA_ARG_MODEL", "")]).unwrap();
        assert!(!parsed.flags.swa_full && parsed.flags.model.is_none());
        let [warning] = &parsed.warnings[..] else { panic!("{:?}", parsed.warnings) };
        assert!(warning.contains("LLAMA_ARG_SWA_FULL has no effect") && warning.contains("--swa-full"), "{warning}");
        assert!(parse_with("", &[("LLAMA_ARG_SWA_FULL", "0")]).unwrap().warnings.is_empty());
    }

    #[test]
    fn llama_cpp_spellings_are_accepted() {
        let flags = parsed(
            "-m m.gguf -f t.txt -ofreq 3 -ub 128 -tb 4 -ngl 99 -fa on -lv 5 -c 256 -b 1024 -t 2 --in_file a,b --no_ppl",
        );
        assert_eq!(
            (flags.output_frequency, flags.ubatch_size, flags.cpu_batch.threads),
            (3, Ubatch::Count(128), Some(4))
        );
        assert_eq!((flags.gpu_layers, flags.flash_attn), (GpuLayers::Count(99), Tristate::On));
        assert_eq!((flags.ctx_size, flags.batch_size, flags.cpu.threads), (256, Some(1024), Some(2)));
        assert_eq!((flags.in_file.as_slice(), flags.verbosity), (["a", "b"].map(String::from).as_slice(), 5));
        assert!(flags.no_ppl);
        assert_eq!(parsed("--output-file x --from-chunk 2 --output-format=dat").output_format, Some(OutputFormat::Dat));
        assert_eq!(parsed("--chunks -1 --gpu-layers -2 --log-verbosity 0").chunks, -1);
        assert_eq!(parsed("--control-vector-layer-range 2 7").control_vector_layers, (2, 7));
    }

    #[test]
    fn the_last_of_a_repeated_flag_counts_and_says_so() {
        let parsed = parse_with("-c 1 -c 2 --no-ppl --ppl", &[]).unwrap();
        assert!(parsed.flags.ctx_size == 2 && !parsed.flags.no_ppl);
        assert_eq!(parsed.warnings.len(), 1);
        assert!(parsed.warnings[0].starts_with("DEPRECATED: argument '-c' specified multiple times"));
        // Files add up, which is what was meant.
        let parsed = parse_with("--in-file a --in-file b", &[]).unwrap();
        assert_eq!((parsed.flags.in_file.len(), parsed.warnings.len()), (2, 0));
    }

    #[test]
    fn files_accumulate_and_a_prompt_replaces_them() {
        let files = |words: &str| match parsed(words).text {
            Some(Text::Files(files)) => files.into_iter().map(|file| (file.path, file.raw)).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(parsed("-f a -p b").text, Some(Text::Prompt("b".into())));
        assert_eq!(files("-p b -f a"), [("a".into(), false)]);
        assert_eq!(files("-p b -bf a"), [("a".into(), true)]);
        assert_eq!(files("-f a -bf b --file c"), [("a".into(), false), ("b".into(), true), ("c".into(), false)]);
        assert_eq!(files("-f a -p b -f c"), [("c".into(), false)]);
        assert_eq!(parsed("-f a -p b").dataset.unwrap(), OsStr::new("a"));
        assert!(parse_with("-f a -f b", &[]).unwrap().warnings.is_empty());
        // A file of options has a text for those who name none.
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.ini");
        std::fs::write(&config, "file = old\n").unwrap();
        let with_config = |words: &str| {
            parse(words.split_whitespace().map(OsString::from), &|_| None, std::slice::from_ref(&config))
                .unwrap()
                .flags
                .text
        };
        assert_eq!(with_config("-f a"), parsed("-f a").text);
        assert_eq!(with_config(""), parsed("-f old").text);
    }

    #[test]
    fn values_keep_underscores_and_leading_dashes() {
        assert_eq!(parsed("--prompt a_b").text, Some(Text::Prompt("a_b".into())));
        assert_eq!(parsed("--prompt=--a_b").text, Some(Text::Prompt("--a_b".into())));
        assert_eq!(parsed("-p -f").text, Some(Text::Prompt("-f".into())));
    }

    #[test]
    fn the_environment_is_read_and_the_command_line_wins() {
        let env = [("LLAMA_ARG_CTX_SIZE", "64"), ("LLAMA_ARG_NO_KV_OFFLOAD", ""), ("LLAMA_ARG_SWA_FULL", "on")];
        let flags = parse_with("", &env).unwrap().flags;
        assert!(flags.ctx_size == 64 && flags.no_kv_offload && flags.swa_full);
        assert!(parse_with("-c 128 -kvo", &env).is_ok_and(|p| p.flags.ctx_size == 128 && !p.flags.no_kv_offload));
        // A switch heeds the words that mean yes, and no others.
        assert!(!parse_with("", &[("LLAMA_ARG_SWA_FULL", "yes")]).unwrap().flags.swa_full);
        let error = parse_with("", &[("LLAMA_ARG_KV_OFFLOAD", "maybe")]).unwrap_err();
        assert!(error.contains("environment variable \"LLAMA_ARG_KV_OFFLOAD\""), "{error}");
        assert!(parse_with("--help", &[("LLAMA_ARG_CTX_SIZE", "many")]).unwrap().special == Some(Special::Help));
    }

    #[test]
    fn devices_are_listed_with_the_flags_after_it() {
        for words in ["--list-devices --rpc a:1", "--rpc a:1 --list-devices", "--list-devices --rpc a:1 --version"] {
            let parsed = parse_with(words, &[]).unwrap();
            assert_eq!((parsed.special, parsed.flags.rpc.len()), (Some(Special::ListDevices), 1), "{words}");
        }
        assert!(parse_with("--list-devices --rcp a:1", &[]).unwrap_err().contains("did you mean --rpc?"));
    }

    #[test]
    fn the_short_flag_has_the_short_help() {
        for (word, special) in [("-h", Special::ShortHelp), ("--help", Special::Help), ("--usage", Special::Help)] {
            assert_eq!(parse_with(word, &[]).unwrap().special, Some(special));
        }
    }

    #[test]
    fn parse_errors_name_the_flag_and_the_value() {
        for (words, says) in [
            ("--no-such", "error: invalid argument: --no-such"),
            ("--ctx-siz 3", "did you mean --ctx-size?"),
            ("--ctx_siz=3", "error: invalid argument: --ctx-siz\n"),
            ("-c", "expected value for argument"),
            ("-c 12x", "'12x' is not a whole number"),
            ("-c 99999999999", "not a whole number"),
            ("--control-vector-layer-range 1", "expected value for argument"),
            ("-sm both", "not one of none, layer, row, tensor"),
            ("--nextn=1", "takes no value"),
            ("-fit auto", "unknown value for --fit"),
        ] {
            let error = parse_with(words, &[]).unwrap_err();
            assert!(error.contains(says), "{words}: {error}");
        }
    }
}
