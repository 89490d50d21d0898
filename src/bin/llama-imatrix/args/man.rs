//! The manual page, from the table and from the commands' own options.

use std::fmt::Write as _;

use super::command::Command;
use super::groups::GROUPS;
use super::table::{Effect, Flag};

/// When the words below were last gone over.
const DATE: &str = "2026-11-24";

const DESCRIPTION: &str = r#"
.SH SYNOPSIS
.B llama\-imatrix
.BI \-m " MODEL" " \-f " TEXT
.RB [ \-o
.IR MATRIX ]
.RI [ FLAGS ]
.br
.B llama\-imatrix
.BI \-\-in\-file " MATRIX"
.RB [ \-\-in\-file
.IR MATRIX " ..]"
.BI \-o " MATRIX"
.br
.B llama\-imatrix
.B \-\-show\-statistics
.BI \-\-in\-file " MATRIX"
.br
.B llama\-imatrix
.I COMMAND
.RI [ ARGUMENTS ]
.SH DESCRIPTION
Collects an importance matrix: statistics of the inputs of a model's weights over a calibration text. Per channel these are the
sum and the sum of squares; per weight, the number of rows.
.BR llama\-quantize (1)
reads it to decide where precision matters. Several of its smallest types require one.
.PP
Called with the flags of llama.cpp's tool of this name, it behaves as that tool does and writes the same file, to the byte.
Results go to standard output, the log and a progress bar to standard error.
.SH COMMANDS
A command is the first argument. Its
.B \-\-help
is also shown by
.B llama\-imatrix help
.IR COMMAND .
"#;

const END: &str = r#"
.SH EXIT STATUS
0, or 1 for any error. If SIGINT, SIGTERM or SIGHUP ends a run, it saves the matrix and exits with 130, 143 or 129.
.SH SIGNALS
After the first SIGINT, SIGTERM or SIGHUP the run finishes the current batch and saves; after the second it ends at once. SIGUSR1
saves the state of the run and logs its progress.
.SH FILES
.TP
.I FNAME.state
The state of a run whose output is
.IR FNAME ,
kept until it is complete; see
.BR \-\-resume .
.TP
.IR /etc/llama.cpp/config.ini ", " ~/.config/llama.cpp/config.ini
Read before the environment and the command line.
.SH EXAMPLES
.nf
llama\-imatrix \-m model.gguf \-f calibration.txt \-o imatrix.gguf
llama\-quantize \-\-imatrix imatrix.gguf model.gguf model\-iq2_xxs.gguf IQ2_XXS
.fi
.SH SEE ALSO
.BR llama\-quantize (1),
.BR llama\-perplexity (1)
"#;

pub(super) fn page(commands: &[Command]) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        ".\\\" Made from the program's table: llama-imatrix --man\n\
         .TH LLAMA\\-IMATRIX 1 {DATE} \"llama-imatrix {version}\" \"User Commands\"\n\
         .SH NAME\nllama\\-imatrix \\- importance matrices for llama.cpp models{DESCRIPTION}"
    );
    for command in commands {
        let (name, usage) = (roff(command.name), roff(&command.usage));
        let _ = writeln!(text, ".SS {name}\n.B {name}\n.I {usage}\n.br\n{}.", roff(command.what));
        for option in &command.options {
            entry(&mut text, option.names.iter().map(String::as_str), &option.value, &option.help, &option.choices);
        }
    }
    text += ".SH OPTIONS\nFlags may be given in any order; in long ones _ stands for \\- as well, and --flag=value for --flag value.\n\
             What is in parentheses is the default.\n"
        .replace("--", r"\-\-")
        .as_str();
    for group in GROUPS {
        let _ = writeln!(text, ".SS {}", roff(group.title));
        for flag in group.flags {
            of_flag(&mut text, flag);
        }
    }
    text.push_str(END.trim_start());
    text
}

fn of_flag(text: &mut String, flag: &Flag) {
    let mut help = flag.help.to_owned();
    match flag.effect {
        Effect::Acts | Effect::Ours => {}
        Effect::Ignored(why) => {
            let _ = write!(help, ". Ignored: {why}");
        }
    }
    if !flag.env.is_empty() {
        let _ = write!(help, ". Environment: {}", flag.env);
    }
    let choices: Vec<_> = flag.choices().iter().map(ToString::to_string).collect();
    entry(text, flag.spellings(), flag.value, &help, &choices);
}

fn entry<'n>(text: &mut String, names: impl Iterator<Item = &'n str>, value: &str, help: &str, choices: &[String]) {
    let names = names.map(|name| format!("\\fB{}\\fR", roff(name))).collect::<Vec<_>>().join(", ");
    let value = if value.is_empty() { String::new() } else { format!(" \\fI{}\\fR", roff(value)) };
    let mut help = help.trim().to_owned();
    if !choices.is_empty() {
        let _ = write!(help, ": {}", choices.join(", "));
    }
    let _ = writeln!(text, ".TP\n{names}{value}\n{}.", roff(help.trim_end_matches('.')));
}

/// What roff would read as a request, an escape or a typographic hyphen is itself.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('~', "\\(ti").replace('^', "\\(ha");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_manual_page_escapes_roff() {
        assert_eq!(super::roff(".5 -x \\n ~"), "\\&.5 \\-x \\en \\(ti");
    }
}
