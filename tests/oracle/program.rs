//! The same cases through the program: flags mean what the oracle takes them to mean.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use llama_imatrix::imatrix::Imatrix;
use llama_imatrix::llama::{Model, ModelOptions};

use super::cases::{CASES, Case, Setup};
use super::{compare, report, upstream, write_model};

fn run(dir: &Path, flags: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llama-imatrix"));
    command.current_dir(dir).args(["-m", "model.gguf", "-t", "1", "--state-interval", "0"]);
    command.args(flags.split_whitespace()).stdin(Stdio::null()).env("XDG_CONFIG_HOME", dir.join("config"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{flags}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn check(dir: &Path, model: &Model, case: &Case) -> Option<String> {
    let setup = case.setup();
    let text = if setup.documents { "-f docs" } else { "-f text.txt" };
    let mut earlier = Imatrix::default();
    if setup.earlier {
        run(dir, &format!("{text} {} -o earlier.gguf", case.before().flags()));
        earlier = Imatrix::read(dir.join("earlier.gguf")).unwrap();
    }
    let want = upstream::collect(model, None, &setup, &earlier);
    run(dir, &format!("{text} {} -o out.gguf", setup.flags()));
    let found = Imatrix::read(dir.join("out.gguf")).unwrap();
    compare::difference(&want, &found).map(|difference| format!("{}: {}: {difference}", case.name, setup.flags()))
}

#[test]
fn the_programs_flags_collect_what_the_oracle_does() {
    let mut failures = Vec::new();
    for name in ["llama", "qwen3moe"] {
        let dir = tempfile::tempdir().unwrap();
        fs::rename(write_model(dir.path(), name), dir.path().join("model.gguf")).unwrap();
        let model = Model::load(&dir.path().join("model.gguf"), &ModelOptions::default()).unwrap();
        // The program takes the newline at the end of a file off, as the tool does.
        fs::write(dir.path().join("text.txt"), super::text() + "\n").unwrap();
        fs::create_dir(dir.path().join("docs")).unwrap();
        for (i, text) in upstream::documents().iter().enumerate() {
            fs::write(dir.path().join("docs").join(format!("{i}.txt")), text.clone() + "\n").unwrap();
        }
        // A part of the chunks is the library's: the program has shards of them.
        let cases = CASES.iter().filter(|case| case.setup().part.is_none());
        failures.extend(
            cases.filter_map(|case| check(dir.path(), &model, case)).map(|failure| format!("{name}: {failure}")),
        );
    }
    report(&failures);
}

#[test]
fn every_setting_of_a_case_is_a_flag() {
    let plain = Setup::default().flags();
    for case in CASES.iter().filter(|case| case.name != "default" && case.setup().part.is_none()) {
        assert_ne!(case.setup().flags(), plain, "{}", case.name);
    }
}
