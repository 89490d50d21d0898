//! Sizes of files as users write them.

/// Reads a size: a number, and a unit of 1024 (`KiB`, `MiB`, `GiB`, `TiB`) or 1000 (`KB`, `MB`, `GB`, `TB`); without a unit
/// bytes.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 10] = [
        ("kib", 1024.0),
        ("mib", 1_048_576.0),
        ("gib", 1_073_741_824.0),
        ("tib", 1_099_511_627_776.0),
        ("kb", 1e3),
        ("mb", 1e6),
        ("gb", 1e9),
        ("tb", 1e12),
        ("b", 1.0),
        ("", 1.0),
    ];
    let wrong = || "expected a size such as 12.5GiB, 900MB or 4800000000".to_owned();
    let lower = text.trim().to_ascii_lowercase();
    let (number, factor) =
        UNITS.iter().find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, factor))).ok_or_else(wrong)?;
    let number = number.trim_end();
    if !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(wrong());
    }
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * factor;
    if (1.0..9e18).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        for (text, expected) in [
            ("12.5GiB", Some(13_421_772_800)),
            ("900MB", Some(900_000_000)),
            ("4096", Some(4096)),
            ("1 kib", Some(1024)),
            ("7b", Some(7)),
            ("", None),
            ("0", None),
            ("-1MB", None),
            ("1e9", None),
            ("inf", None),
            ("12.5 parsecs", None),
            ("1.2.3MB", None),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text}");
        }
    }
}
