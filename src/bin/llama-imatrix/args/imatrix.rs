//! Flags of the matrix: its text, its output and its contents.

use super::bits::Key;
use super::choices::{Choice as _, FillExperts, OutputFormat};
use super::csv::split_csv;
use super::lowargs::Text;
use super::table::{Flag, Set};

pub(super) static FLAGS: &[Flag] = &[
    Flag::new(
        &["-f", "--file"],
        "FNAME",
        "Calibration text: a file, or a folder with all its files; may be repeated. .gz and .zst files are decompressed; \
         .jsonl files have one conversation or document per line",
        Set::Raw(|flags, value| {
            flags.add_file(value.into(), false);
            Ok(())
        }),
    )
    .key(Key::Text),
    Flag::new(
        &["-bf", "--binary-file"],
        "FNAME",
        "Calibration text: a file, read as plain text whatever its name is, up to its last byte (--file drops a line end there)",
        Set::Raw(|flags, value| {
            flags.add_file(value.into(), true);
            Ok(())
        }),
    )
    .key(Key::Text),
    Flag::new(
        &["-p", "--prompt"],
        "PROMPT",
        "Calibration text itself; replaces the files given before it",
        Set::Raw(|flags, value| {
            flags.text = Some(Text::Prompt(value.into()));
            Ok(())
        }),
    )
    .key(Key::Text),
    Flag::toggle(
        &["-e", "--escape"],
        &["--no-escape"],
        "Replace the escape sequences \\n, \\r, \\t, \\', \\\", \\\\ and \\xHH in plain text",
        |flags, on| flags.escape = on,
    )
    .key(Key::Text),
    Flag::new(
        &["-o", "--output", "--output-file"],
        "FNAME",
        "Output file for the matrix; an existing matrix is replaced. A pipe or device receives the matrix at the end of the run \
         (imatrix.gguf)",
        Set::Raw(|flags, value| {
            flags.output = Some(value.into());
            Ok(())
        }),
    )
    .same_bits(),
    Flag::new(
        &["--output-format"],
        "FORMAT",
        "Format of the output file; dat is the format of older versions (gguf)",
        Set::Choice(OutputFormat::WORDS, |flags, format| {
            flags.output_format = Some(OutputFormat::parse(format)?);
            Ok(())
        }),
    )
    .same_bits(),
    Flag::new(
        &["--fill-experts"],
        "none|layer|shown",
        "Fill experts that saw few tokens in each saved matrix: layer blends them with the mean of their weight's experts; shown \
         does so too, but in the last matrix computes the inputs of down from a sample of the layer's rows (none)",
        Set::Choice(FillExperts::WORDS, |flags, how| {
            flags.fill_experts = FillExperts::parse(how)?;
            Ok(())
        }),
    )
    .ours()
    .same_bits(),
    Flag::int(&["--fill-below"], "Fill experts that saw fewer than N tokens; requires --fill-experts (1)", |flags, n| {
        flags.fill_below = Some(Some(i64::from(n)).filter(|&n| n > 0).ok_or(format!("{n} is below 1"))?);
        Ok(())
    })
    .ours()
    .same_bits(),
    Flag::int(&["-ofreq", "--output-frequency"], "Write the matrix every N chunks (10)", |flags, n| {
        flags.output_frequency = n;
        Ok(())
    })
    .same_bits(),
    Flag::int(&["--save-frequency"], "Also write a copy named FNAME.at_N every N chunks (0, none)", |flags, n| {
        flags.save_frequency = n;
        Ok(())
    })
    .same_bits(),
    Flag::new(
        &["--in-file"],
        "FNAME",
        "Matrix to continue from, to merge or to show; may be repeated, or separate files by commas",
        Set::Text(|flags, value| {
            if value.is_empty() {
                return Err("expected a file name, found none".to_owned());
            }
            flags.in_file.extend(split_csv(value));
            Ok(())
        }),
    )
    .key(Key::Base),
    Flag::int(
        &["--legacy-chunk-size"],
        "Tokens per chunk of the runs that wrote the .dat files (512; in a merge --ctx-size)",
        |flags, n| {
            flags.legacy_chunk_size = Some(n);
            Ok(())
        },
    )
    .ours()
    .named("legacy-chunk-size"),
    Flag::switch(&["--show-statistics"], "Show the statistics of the matrix given by --in-file, and exit", |flags| {
        flags.show_statistics = true;
    })
    .same_bits(),
    Flag::int(&["--chunk", "--from-chunk"], "Start at chunk N (0)", |flags, n| {
        flags.chunk = n;
        Ok(())
    })
    .named("chunk"),
    Flag::int(&["--chunks"], "Process at most N chunks (-1, all)", |flags, n| {
        flags.chunks = n;
        Ok(())
    })
    .key(Key::Chunks),
    Flag::toggle(&["--ppl"], &["--no-ppl"], "Compute perplexity (yes)", |flags, on| flags.no_ppl = !on)
    .named("ppl"),
    Flag::switch(&["--process-output"], "Also collect the output matrix", |flags| flags.process_output = true)
    .named("process-output"),
    Flag::switch(&["--nextn"], "Also collect the NextN (MTP) layers, which predict further tokens", |flags| {
        flags.nextn = true;
    })
    .named("nextn"),
    Flag::switch(
        &["--parse-special"],
        "Parse special tokens in the text, such as <|im_start|>",
        |flags| flags.parse_special = true,
    )
    .key(Key::Text),
    Flag::switch(
        &["--documents"],
        "Evaluate each document, a file or a line of a .jsonl file, separately. Documents longer than --ctx-size are split; \
         documents never share context; no tokens are dropped",
        |flags| flags.documents = true,
    )
    .ours()
    .named("documents"),
    Flag::new(
        &["--chat-template"],
        "NAME",
        "Template for conversations: one of llama.cpp's by name, such as chatml or llama3, or Jinja (the model's own)",
        Set::Text(|flags, value| {
            flags.chat_template = Some(value.to_owned());
            Ok(())
        }),
    )
    .ours()
    .key(Key::Text),
    Flag::new(
        &["--chat-template-file"],
        "FNAME",
        "Jinja template for conversations (the model's own)",
        Set::Raw(|flags, value| {
            flags.chat_template_file = Some(value.into());
            Ok(())
        }),
    )
    .ours()
    .key(Key::Text),
    Flag::new(
        &["--chat-date"],
        "YYYY-MM-DD",
        "Date that chat templates use as today (2024-07-26)",
        Set::Text(|flags, value| {
            flags.chat_date = value.parse()?;
            Ok(())
        }),
    )
    .ours()
    .key(Key::Text),
    Flag::switch(
        &["--shuffle"],
        "Evaluate chunks, or with --documents whole documents, in a random order that --seed selects",
        |flags| flags.shuffle = true,
    )
    .ours()
    .named("shuffle"),
    Flag::new(
        &["--tokens"],
        "N",
        "Process at most N tokens; the suffixes K, M and G stand for thousands, millions and billions (all)",
        Set::Text(|flags, value| {
            flags.tokens = Some(tokens(value).filter(|&n| n > 0).ok_or("expected a number from 1 on, as in 300000 or 2M")?);
            Ok(())
        }),
    )
    .ours()
    .key(Key::Chunks),
    Flag::switch(
        &["--dry-run"],
        "Print the numbers of tokens and chunks, the memory needed per device and the amount of computation, and exit",
        |flags| flags.dry_run = true,
    )
    .ours()
    .same_bits(),
    Flag::float(
        &["--tokens-per-second"],
        "Speed from which --dry-run estimates the time; the log of an earlier run ends with it",
        |flags, n| {
            flags.tokens_per_second = Some(Some(n).filter(|n| n.is_finite() && *n > 0.0).ok_or(format!("{n} is not above 0"))?);
            Ok(())
        },
    )
    .ours()
    .same_bits(),
    Flag::switch(&["--keep-tail"], "Also process the tokens after the last whole chunk", |flags| {
        flags.keep_tail = true;
    })
    .ours()
    .named("keep-tail"),
    Flag::int(
        &["--min-rows"],
        "Collect dense inputs only if they have at least N rows; inputs of experts always (16; with --documents 1)",
        |flags, n| {
            flags.min_rows = Some(u32::try_from(n).map_err(|_| format!("{n} is below 0"))?);
            Ok(())
        },
    )
    .ours()
    .named("min-rows"),
    Flag::new(
        &["--lanes"],
        "N|auto",
        "Evaluate N batches in parallel, each with an equal share of the threads (auto)",
        Set::Text(|flags, value| {
            flags.lanes = match value {
                "auto" => None,
                n => Some(n.parse().ok().filter(|&n| n > 0).ok_or("expected auto or a number from 1 on")?),
            };
            Ok(())
        }),
    )
    .ours()
    .same_bits(),
];

/// A number, in thousands, millions or billions where a letter says so.
fn tokens(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => (&text[..text.len() - 1], 1_000),
        b'M' => (&text[..text.len() - 1], 1_000_000),
        b'G' => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| valid)?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::tokens;

    #[test]
    fn token_counts_take_k_and_m_suffixes() {
        for (text, n) in [("7", Some(7)), ("2M", Some(2_000_000)), ("3k", Some(3000)), ("1G", Some(1_000_000_000))] {
            assert_eq!(tokens(text), n, "{text}");
        }
        for text in ["", "M", "1.5M", "-1", "+1", "2MB", "99999999999999999999", "99999999999999999G", "é"] {
            assert_eq!(tokens(text), None, "{text}");
        }
    }
}
