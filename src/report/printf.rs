//! Formats numbers and columns as C's `printf` does.

use std::io::{self, Write};

/// Formats `%W.Pf`. `nan` and `inf` have the sign of their sign bit.
pub(super) fn number(x: f64, width: usize, precision: usize) -> String {
    let sign = if x.is_sign_negative() { "-" } else { "" };
    if x.is_nan() {
        format!("{:>width$}", format!("{sign}nan"))
    } else if x.is_infinite() {
        format!("{:>width$}", format!("{sign}inf"))
    } else {
        format!("{x:width$.precision$}")
    }
}

/// Writes `%Ws`. `width` counts bytes, not characters.
pub(super) fn right(w: &mut impl Write, text: &[u8], width: usize) -> io::Result<()> {
    spaces(w, width.saturating_sub(text.len()))?;
    w.write_all(text)
}

/// Writes `%-Ws`.
pub(super) fn left(w: &mut impl Write, text: &[u8], width: usize) -> io::Result<()> {
    w.write_all(text)?;
    spaces(w, width.saturating_sub(text.len()))
}

fn spaces(w: &mut impl Write, n: usize) -> io::Result<()> {
    write!(w, "{:n$}", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_by_glibc() {
        assert_eq!(number(f64::NAN, 8, 2), "     nan");
        assert_eq!(number(-f64::NAN, 8, 2), "    -nan");
        assert_eq!(number(f64::NEG_INFINITY, 6, 2), "  -inf");
        assert_eq!(number(-0.00001, 10, 4), "   -0.0000");
        assert_eq!(number(0.125, 8, 2), "    0.12"); // ties to even
        assert_eq!(number(1e20, 3, 1), "100000000000000000000.0");
    }

    #[test]
    fn widths_count_bytes() {
        let mut out = Vec::new();
        right(&mut out, "∑ E[A²]".as_bytes(), 17).unwrap();
        left(&mut out, b"ab", 3).unwrap();
        right(&mut out, b"abc", 2).unwrap();
        assert_eq!(out, "       ∑ E[A²]ab abc".as_bytes());
    }
}
