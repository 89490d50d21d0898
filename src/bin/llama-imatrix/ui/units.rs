//! Durations and sizes as people read them.

use std::time::Duration;

/// `45s`, `2m10s`, `3h05m`, `2d04h`: two units at most.
pub(crate) fn duration(duration: Duration) -> String {
    // Rounded to seconds first, or 59.7 seconds would be "60s".
    let seconds = (duration.as_secs_f64() + 0.5) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// `512 bytes`, `81 KiB`, `1.4 GiB`: the unit below which the number would have four digits.
pub(crate) fn bytes(n: u64) -> String {
    let kib = n as f64 / 1024.0;
    match n {
        0..1024 => format!("{n} bytes"),
        1024..0x10_0000 => format!("{kib:.0} KiB"),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", kib / 1024.0),
        _ => format!("{:.1} GiB", kib / 1024.0 / 1024.0),
    }
}

/// A rate, with the digits that matter: `9.4`, `1383`.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (seconds, text) in [
            (0.2, "0s"),
            (59.4, "59s"),
            (59.7, "1m00s"),
            (130.0, "2m10s"),
            (3599.6, "1h00m"),
            (11_130.0, "3h05m"),
            (187_300.0, "2d04h"),
        ] {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
    }

    #[test]
    fn sizes_have_the_unit_that_keeps_them_short() {
        for (n, text) in [(7, "7 bytes"), (83_000, "81 KiB"), (1 << 20, "1.0 MiB"), (1_500_000_000, "1.4 GiB")] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn rates_have_the_digits_that_matter() {
        assert_eq!([rate(9.44), rate(1383.2)], ["9.4", "1383"]);
    }
}
