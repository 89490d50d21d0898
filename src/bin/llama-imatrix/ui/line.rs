//! The line of the progress bar: as much as fits the terminal's width.

/// Fewest columns of the bar itself.
const SHORTEST_BAR: usize = 8;
/// Most columns of the bar itself.
const LONGEST_BAR: usize = 40;
const SEPARATOR: &str = " · ";

/// A part of the line, with a shorter form for narrow terminals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    long: String,
    short: String,
    /// Fields with the lowest rank are shortened, and left out, first.
    rank: u8,
}

impl Field {
    pub(super) fn new(rank: u8, long: impl Into<String>, short: impl Into<String>) -> Self {
        Self { long: long.into(), short: short.into(), rank }
    }

    /// A field that has no shorter form.
    pub(super) fn fixed(rank: u8, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { short: text.clone(), long: text, rank }
    }
}

/// ` 59% █████████░░░░░░ chunk 128/217 · PPL 21.02 · 1383 tokens/s · 3m12s left`, in fewer than `width` columns. Without a
/// `part` there is no bar.
pub(super) fn line(part: Option<f64>, fields: &[Field], width: usize, colors: bool) -> String {
    let room = width.saturating_sub(1);
    let percent = part.map(|part| format!("{:3}%", (part.clamp(0.0, 1.0) * 100.0) as u32));
    let head = percent.as_ref().map_or(0, |percent| percent.len() + 1);
    let mut ranks: Vec<u8> = fields.iter().map(|field| field.rank).collect();
    ranks.sort_unstable();
    ranks.dedup();
    let bar = if part.is_some() { SHORTEST_BAR + 1 } else { 0 };
    // With a bar: all long, then one field after the other short. Without one: one field after the other left out.
    let shortened = (0..=ranks.len()).map(|n| (bar, render(fields, &ranks[..n], &[])));
    let left_out = (0..=ranks.len()).map(|n| (0, render(fields, &ranks, &ranks[..n])));
    let fits = |(bar, text): &(usize, String)| head + bar + columns(text) <= room;
    let Some((bar, text)) = shortened.chain(left_out).find(fits) else { return String::new() };
    let mut out = percent.unwrap_or_default();
    if let Some(part) = part.filter(|_| bar > 0) {
        let wide = (room - head - columns(&text) - 1).min(LONGEST_BAR);
        out.push(' ');
        out.push_str(&draw(part, wide, colors));
    }
    if !out.is_empty() && !text.is_empty() {
        out.push(' ');
    }
    out + &text
}

fn render(fields: &[Field], short: &[u8], left_out: &[u8]) -> String {
    let shown = fields.iter().filter(|field| !left_out.contains(&field.rank));
    let texts = shown.map(|field| if short.contains(&field.rank) { &field.short } else { &field.long });
    texts.filter(|text| !text.is_empty()).map(String::as_str).collect::<Vec<_>>().join(SEPARATOR)
}

fn draw(part: f64, wide: usize, colors: bool) -> String {
    let done = ((part.clamp(0.0, 1.0) * wide as f64) as usize).min(wide);
    let (done, rest) = ("█".repeat(done), "░".repeat(wide - done));
    if colors { format!("\x1b[36m{done}\x1b[0m\x1b[2m{rest}\x1b[0m") } else { done + &rest }
}

/// All characters of ours are one column wide.
fn columns(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(experts: bool) -> Vec<Field> {
        let mut fields = vec![
            Field::new(3, "chunk 128/217", "128/217"),
            Field::fixed(2, "PPL 21.02"),
            Field::new(1, "1383 tokens/s", "1383 t/s"),
            Field::fixed(9, "3m12s left"),
        ];
        if experts {
            fields.insert(2, Field::new(4, "151 of 512 experts unseen", "151 unseen experts"));
        }
        fields
    }

    #[test]
    fn the_progress_line_fits_eighty_columns() {
        let text = line(Some(0.59), &fields(false), 80, false);
        assert_eq!(text, " 59% ███████████░░░░░░░░ chunk 128/217 · PPL 21.02 · 1383 tokens/s · 3m12s left");
        let text = line(Some(0.59), &fields(true), 80, false);
        assert_eq!(text, " 59% █████░░░░ 128/217 · PPL 21.02 · 151 unseen experts · 1383 t/s · 3m12s left");
    }

    #[test]
    fn the_progress_line_never_wraps() {
        for experts in [false, true] {
            for width in 1..200 {
                let text = line(Some(0.5), &fields(experts), width, false);
                assert!(columns(&text) < width, "{width}: {text}");
                assert!(width < 20 || text.contains("3m12s left"), "{width}: {text}");
            }
        }
    }

    #[test]
    fn colors_apply_to_the_bar_only() {
        let (plain, colored) = (line(Some(0.5), &fields(false), 80, false), line(Some(0.5), &fields(false), 80, true));
        assert!(!plain.contains('\x1b'));
        let without = ["\x1b[36m", "\x1b[2m", "\x1b[0m"].iter().fold(colored, |text, code| text.replace(code, ""));
        assert_eq!(without, plain);
    }

    #[test]
    fn work_of_unknown_length_has_no_bar() {
        let fields = [Field::fixed(1, "tokenizing 1.2 MiB"), Field::fixed(2, "3s")];
        assert_eq!(line(None, &fields, 80, false), "tokenizing 1.2 MiB · 3s");
    }
}
