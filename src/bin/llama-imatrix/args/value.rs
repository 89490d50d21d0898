//! From a value's text to its type.

use std::ffi::OsStr;
use std::str::FromStr;

use super::lowargs::{Flags, Tristate};
use super::table::{Checked, Flag, Set};

/// Reads a value as the flag's row says, and keeps it.
pub(super) fn set_value(flag: &Flag, flags: &mut Flags, value: &OsStr) -> Checked {
    match flag.set {
        Set::Int(set) => set(flags, number(value, "a whole number")?),
        Set::Float(set) => set(flags, number(value, "a number")?),
        Set::Choice(_, set) => set(flags, text(value)?),
        Set::OnOff(set) => {
            let on = on_or_off(value)
                .map_err(|_| format!("unknown value for {}: '{}'", flag.long_name(), value.display()))?;
            set(flags, on);
            Ok(())
        }
        Set::Tristate(set) => {
            let state = match value.to_str() {
                Some(word) if is_truthy(word) => Tristate::On,
                Some(word) if is_falsey(word) => Tristate::Off,
                Some("auto" | "-1") => Tristate::Auto,
                _ => return Err(format!("unknown value for {}: '{}'", flag.long_name(), value.display())),
            };
            set(flags, state);
            Ok(())
        }
        Set::Text(set) => set(flags, text(value)?),
        Set::Raw(set) => set(flags, value),
        Set::Switch(_) | Set::Toggle(_) | Set::Pair(_) | Set::Special(_) => Ok(()),
    }
}

pub(super) fn text(value: &OsStr) -> Result<&str, String> {
    value.to_str().ok_or_else(|| format!("'{}' is not UTF-8", value.display()))
}

fn number<T: FromStr>(value: &OsStr, what: &str) -> Result<T, String> {
    value
        .to_str()
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| format!("'{}' is not {what}", value.display()))
}

pub(super) fn is_truthy(word: &str) -> bool {
    matches!(word, "on" | "enabled" | "true" | "1")
}

pub(super) fn is_falsey(word: &str) -> bool {
    matches!(word, "off" | "disabled" | "false" | "0")
}

pub(super) fn on_or_off(value: &OsStr) -> Result<bool, String> {
    match value.to_str() {
        Some(word) if is_truthy(word) => Ok(true),
        Some(word) if is_falsey(word) => Ok(false),
        _ => Err(format!("invalid boolean value '{}'", value.display())),
    }
}
