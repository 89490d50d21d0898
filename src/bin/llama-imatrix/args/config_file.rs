//! llama.cpp's configuration files: options that all its programs share, below the environment and the command line.
//!
//! One for the system, `/etc/llama.cpp/config.ini`, and one for the user, `~/.config/llama.cpp/config.ini`. Of their
//! sections `[*]` and `[default]` count, the latter also for what comes before any section. Keys are long flags without
//! their dashes, short ones, or environment variables. What this program does not know is passed over with a warning.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::groups::flags;
use super::parsed::Parsed;
use super::table::{Checked, Flag, Set};
use super::value::{is_falsey, is_truthy, set_value};

/// Where a file is looked for, the last with the last word.
pub(super) fn places(env: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let user = env("XDG_CONFIG_HOME")
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from)
        .or_else(|| env("HOME").map(|home| PathBuf::from(home).join(".config")));
    let folders = std::iter::once(PathBuf::from("/etc")).chain(user);
    folders.map(|folder| folder.join("llama.cpp").join("config.ini")).collect()
}

/// Applies the files that there are.
///
/// # Errors
/// A file that cannot be read, a line that is none of the format's, a value that is wrong.
pub(super) fn apply(places: &[PathBuf], parsed: &mut Parsed) -> Result<(), String> {
    for path in places.iter().filter(|path| path.exists()) {
        let name = path.display();
        let text =
            std::fs::read_to_string(path).map_err(|error| format!("cannot read config file '{name}': {error}"))?;
        let sections = sections(&text).map_err(|line| {
            format!("failed to parse config file '{name}': line {line} is no section, no 'key = value' and no comment")
        })?;
        for (key, value) in ["*", "default"].into_iter().filter_map(|section| sections.get(section)).flatten() {
            match find(key) {
                None if *key == "version" => {}
                None => {
                    parsed.warnings.push(format!("ignoring option '{key}' from {name}: not supported by this program"));
                }
                Some((flag, positive)) => set(flag, positive, value, parsed)
                    .map_err(|error| format!("error while handling option '{key}' of '{name}': {error}"))?,
            }
        }
    }
    Ok(())
}

type Sections<'a> = BTreeMap<&'a str, BTreeMap<&'a str, &'a str>>;

/// Keys and values by section; a section that comes again begins anew. The number of the first bad line otherwise.
fn sections(text: &str) -> Result<Sections<'_>, usize> {
    let mut sections = Sections::new();
    let mut current = "default";
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split([';', '#']).next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            current = section.trim();
            sections.insert(current, BTreeMap::new());
            continue;
        }
        let (key, value) = line.split_once('=').ok_or(number)?;
        let key = key.trim();
        let starts = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts || !key.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
            return Err(number);
        }
        sections.entry(current).or_default().insert(key, value.trim());
    }
    Ok(sections)
}

fn find(key: &str) -> Option<(&'static Flag, bool)> {
    let named = |names: &[&str]| names.iter().any(|name| name.trim_start_matches('-') == key);
    flags().filter(|flag| !matches!(flag.set, Set::Special(_))).find_map(|flag| {
        if flag.env == key || named(flag.names) {
            Some((flag, true))
        } else {
            named(flag.negated).then_some((flag, false))
        }
    })
}

fn set(flag: &Flag, positive: bool, value: &str, parsed: &mut Parsed) -> Checked {
    match flag.set {
        Set::Toggle(set) => set(&mut parsed.flags, is_truthy(value) == positive),
        Set::Switch(set) if !is_falsey(value) => set(&mut parsed.flags),
        Set::Switch(_) => {}
        Set::Pair(_) => return Err("options of two values are not supported in a config file".to_owned()),
        _ => set_value(flag, &mut parsed.flags, OsStr::new(value))?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::lowargs::Ubatch;
    use super::*;

    fn read(texts: &[&str]) -> Result<Parsed, String> {
        let dir = tempfile::tempdir().unwrap();
        let places: Vec<_> = (0..texts.len()).map(|i| dir.path().join(format!("{i}.ini"))).collect();
        for (path, text) in places.iter().zip(texts) {
            std::fs::write(path, text).unwrap();
        }
        let mut parsed = Parsed::default();
        let places: Vec<_> = places.into_iter().chain([dir.path().join("none.ini")]).collect();
        apply(&places, &mut parsed).map(|()| parsed)
    }

    #[test]
    fn options_come_from_their_sections_under_any_of_their_names() {
        let text = "version = 1\nctx-size = 64 ; tokens\n  # a comment\n\n[ * ]\nctx-size = 32\nb=128\n\
                    [default]\nLLAMA_ARG_UBATCH = 16\nno-ppl = on\n[some-model]\nctx-size = 1\n";
        let flags = read(&[text]).unwrap().flags;
        // The later [default] begins anew, so its ctx-size is gone and that of [*] counts.
        assert_eq!((flags.ctx_size, flags.batch_size, flags.ubatch_size), (32, Some(128), Ubatch::Count(16)));
        assert!(flags.no_ppl);
        assert!(!read(&["no-ppl = off"]).unwrap().flags.no_ppl);
        assert!(read(&["ppl = off"]).unwrap().flags.no_ppl);
        assert!(read(&["process-output = 1"]).unwrap().flags.process_output);
        assert!(!read(&["process-output = 0"]).unwrap().flags.process_output);
    }

    #[test]
    fn the_users_configuration_file_overrides_the_systems() {
        assert_eq!(read(&["ctx-size = 64\nbatch-size = 64", "ctx-size = 96"]).unwrap().flags.ctx_size, 96);
    }

    #[test]
    fn unknown_options_of_a_configuration_file_warn_and_bad_values_are_errors() {
        let parsed = read(&["port = 1234"]).unwrap();
        assert!(parsed.warnings[0].contains("ignoring option 'port'"), "{:?}", parsed.warnings);
        assert!(read(&["ctx-size = many"]).unwrap_err().contains("'ctx-size'"));
        assert!(read(&["ctx-size = 1\nnonsense"]).unwrap_err().contains("line 2"));
        assert!(read(&["3 = 1"]).unwrap_err().contains("line 1"));
        assert!(read(&["control-vector-layer-range = 1 2"]).unwrap_err().contains("two values"));
    }

    #[test]
    fn configuration_files_are_the_systems_and_the_users() {
        let with = |name: &'static str| {
            places(&move |asked| (asked == name).then(|| "/x".into()))
                .into_iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(with("XDG_CONFIG_HOME"), ["/etc/llama.cpp/config.ini", "/x/llama.cpp/config.ini"]);
        assert_eq!(with("HOME"), ["/etc/llama.cpp/config.ini", "/x/.config/llama.cpp/config.ini"]);
        assert_eq!(with("NONE"), ["/etc/llama.cpp/config.ini"]);
    }
}
