//! What a terminal shows, in a pseudo-terminal of util-linux's `script`.

use super::*;

/// A run that lasts for several drawings of the bar.
const RUN: &str = "-m qwen3moe.gguf -f long.txt -c 64 -b 64 --lanes 1";

/// Runs the program in a terminal of `columns`, and returns all that it shows. `None` without `script`.
fn in_terminal(bench: &Bench, args: &str, columns: usize, env: &[(&str, &str)]) -> Option<String> {
    bench.write("long.txt", support::text(30_000, 1).as_bytes());
    let shell = format!("stty cols {columns} rows 24; exec '{}' {args}", program().display());
    let mut command = Command::new("script");
    command.current_dir(bench.dir.path()).args(["-qec", &shell, "/dev/null"]);
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR").env("XDG_CONFIG_HOME", bench.path("config"));
    command.env("OMP_WAIT_POLICY", "passive").envs(env.iter().copied());
    match command.stdin(std::process::Stdio::null()).output() {
        Ok(output) => {
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{text}");
            Some(text)
        }
        Err(error) => {
            support::cannot_test(&format!("script (util-linux): {error}"));
            None
        }
    }
}

/// The lines as a terminal draws them, without escapes.
fn drawn(text: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\x1b' {
            plain.push(c);
            continue;
        }
        // ESC [ parameters, up to a letter.
        if chars.next() == Some('[') {
            let _ = chars.by_ref().find(char::is_ascii_alphabetic);
        }
    }
    plain.split(['\r', '\n']).map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_bar_fits_eighty_columns_and_the_perplexity_list_does_not_follow_it() {
    let bench = Bench::new(&["qwen3moe"]);
    let Some(text) = in_terminal(&bench, RUN, 80, &[]) else { return };
    let lines = drawn(&text);
    let bars: Vec<_> = lines.iter().filter(|line| line.contains('░')).collect();
    assert!(bars.len() > 2, "{text}");
    assert!(bars.iter().all(|line| line.chars().count() < 80), "{bars:#?}");
    assert!(bars.iter().any(|line| line.contains("estimating…")), "{bars:#?}");
    assert!(bars.iter().any(|line| line.ends_with(" left") && line.contains("PPL ")), "{bars:#?}");
    assert!(bars.iter().any(|line| line.contains("unseen")), "{bars:#?}");
    assert!(!text.contains("[1]") && !text.contains("seconds per pass"), "{text}");
    assert!(text.contains("Final estimate: PPL = ") && text.contains("saved imatrix.gguf: "), "{text}");
    assert!(text.contains("\x1b[36m"), "a terminal has colors");
}

#[test]
fn no_color_is_honoured_by_the_bar() {
    let bench = Bench::new(&["qwen3moe"]);
    let Some(text) = in_terminal(&bench, RUN, 100, &[("NO_COLOR", "1")]) else { return };
    assert!(text.contains('░') && !text.contains("\x1b[36m") && !text.contains("\x1b[2m"), "{text}");
}

/// The list is data: it goes on where standard output goes.
#[test]
fn a_pipe_gets_the_list_while_the_terminal_shows_the_bar() {
    let bench = Bench::new(&["qwen3moe"]);
    let Some(text) = in_terminal(&bench, &format!("{RUN} > list.txt"), 80, &[]) else { return };
    let list = String::from_utf8(bench.read("list.txt")).unwrap();
    assert!(list.contains("[1]") && list.contains("Final estimate"), "{list}");
    assert!(!text.contains("[1]") && text.contains('░'), "{text}");
}

#[test]
fn the_bar_of_a_resumed_run_begins_at_the_resumed_chunk() {
    let bench = Bench::new(&["qwen3moe"]);
    bench.write("long.txt", support::text(30_000, 1).as_bytes());
    // The state of half of the run.
    let chunks = bench.ok(&format!("{RUN} -o whole.gguf")).stdout.matches('[').count();
    let ran = run_in_shell(
        &bench,
        "\"$0\" \"$@\" & while [ ! -e imatrix.gguf.state ]; do sleep 0.01; done; kill -INT $!; wait $!",
        &format!("{RUN} --state-frequency {}", chunks / 2),
    );
    assert_eq!(ran.code, Some(130), "{ran:?}");
    let Some(text) = in_terminal(&bench, &format!("{RUN} --resume"), 80, &[]) else { return };
    let percents: Vec<u32> = drawn(&text)
        .iter()
        .filter(|line| !line.contains("tokenizing"))
        .filter(|line| line.contains("chunk") || line.contains(" left") || line.contains("estimating"))
        .filter_map(|line| line.trim_start().split_once('%')?.0.parse().ok())
        .collect();
    assert!(percents.first().is_some_and(|&first| first >= 49), "{percents:?}");
}
