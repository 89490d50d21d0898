//! What a chat template makes of conversations: `render-chat TEMPLATE FILE.jsonl [BOS EOS]`.
//!
//! Prints each as a JSON string, or `null` where the template fails, a line each. `scripts/compare-templates.sh` compares
//! that with what Python's Jinja makes of them.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::process::ExitCode;

use llama_imatrix::calibration::{Body, ChatTemplate, Corpus, Date, Input, Layout, SpecialTexts};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (template, file, bos, eos) = match &args[..] {
        [template, file] => (template, file, "<s>", "</s>"),
        [template, file, bos, eos] => (template, file, bos.as_str(), eos.as_str()),
        _ => {
            eprintln!("usage: render-chat TEMPLATE FILE.jsonl [BOS EOS]");
            return ExitCode::FAILURE;
        }
    };
    match render(template, file, bos, eos) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn render(template: &str, file: &str, bos: &str, eos: &str) -> Result<(), Box<dyn std::error::Error>> {
    let special = SpecialTexts { bos: bos.to_owned(), eos: eos.to_owned() };
    let template = ChatTemplate::new(&std::fs::read_to_string(template)?, special, Date::default())?;
    let corpus = Corpus::read(&[Input { path: file.into(), raw: false }], Layout::Apart)?;
    for item in &corpus.items {
        let Body::Conversation(conversation) = &item.body else { continue };
        match template.render(conversation) {
            Ok(text) => println!("{}", serde_json::to_string(&text)?),
            Err(error) => {
                eprintln!("{}: {error}", corpus.origin(item));
                println!("null");
            }
        }
    }
    Ok(())
}
