//! Files that may be replaced: only such as this program writes.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use llama_imatrix::{gguf, imatrix, state};

/// Bytes at a file's beginning that tell what it is.
const HEAD: u64 = 1 << 16;

/// Refuses a file that is neither an importance matrix nor a state. An empty file may be replaced, and so may a matrix
/// that was cut short.
pub(crate) fn refuse_foreign_matrix(path: &Path) -> anyhow::Result<()> {
    let is_ours =
        |head: &[u8]| if head.starts_with(&gguf::MAGIC) { is_gguf_of_ours(path, head) } else { is_dat(path, head) };
    refuse_foreign(path, "--output", "is neither an importance matrix nor a state", is_ours)
}

/// Refuses a page that is no page.
pub(crate) fn refuse_foreign_page(path: &Path) -> anyhow::Result<()> {
    refuse_foreign(path, "--output", "is not an HTML page", |head| head.trim_ascii_start().starts_with(b"<"))
}

/// Refuses a file that is not a JSON object; `what` says which kind of file is expected.
pub(crate) fn refuse_foreign_json(path: &Path, what: &str) -> anyhow::Result<()> {
    let fault = format!("is not a {what} file");
    refuse_foreign(path, "--output", &fault, |head| head.trim_ascii_start().starts_with(b"{"))
}

/// Refuses a file of lines that begins with something else than ours do.
#[cfg(feature = "llama")]
pub(crate) fn refuse_foreign_lines(path: &Path, flag: &str, begins: &str) -> anyhow::Result<()> {
    let fault = format!("does not begin with '{begins}', as files of {flag} do");
    refuse_foreign(path, flag, &fault, |head| head.starts_with(begins.as_bytes()))
}

/// Refuses a file that is not a logits file.
#[cfg(feature = "llama")]
pub(crate) fn refuse_foreign_logits(path: &Path) -> anyhow::Result<()> {
    let is_ours = |head: &[u8]| head.starts_with(llama_imatrix::lens::base::MAGIC);
    refuse_foreign(path, "--save-logits", "is not a logits file", is_ours)
}

/// Refuses a file whose beginning is not that of a file of ours. An empty file may be replaced.
fn refuse_foreign(path: &Path, flag: &str, fault: &str, is_ours: impl FnOnce(&[u8]) -> bool) -> anyhow::Result<()> {
    let Some(head) = head(path)? else { return Ok(()) };
    ensure!(
        is_ours(&head),
        "cannot write '{0}': the file exists and {fault}\n\
         hint: delete '{0}', or name another file with {flag}",
        path.display()
    );
    Ok(())
}

/// Refuses a log that is a GGUF file.
pub(crate) fn refuse_gguf_as_log(path: &Path) -> anyhow::Result<()> {
    let Some(head) = head(path)? else { return Ok(()) };
    ensure!(
        !head.starts_with(&gguf::MAGIC),
        "cannot write the log '{0}': the file exists and is a GGUF file\n\
         hint: name another file with --log-file",
        path.display()
    );
    Ok(())
}

/// The beginning of a regular file; `None` where there is none, or nothing is in it.
fn head(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let mut head = Vec::new();
    // What may be written and not read is the user's business.
    let Ok(file) = File::open(path) else { return Ok(None) };
    file.take(HEAD).read_to_end(&mut head).with_context(|| format!("cannot read '{}'", path.display()))?;
    Ok(Some(head).filter(|head| !head.is_empty()))
}

fn is_gguf_of_ours(path: &Path, head: &[u8]) -> bool {
    match gguf::File::open(path) {
        Ok(file) => match file.get("general.type").and_then(gguf::Value::as_str) {
            Some(kind) => ["imatrix", state::KIND].contains(&kind),
            // Some programs write matrices without it.
            None => file.tensors().any(|tensor| tensor.name.ends_with(".in_sum2")),
        },
        // Cut short, as a run of llama.cpp's tool that was killed leaves it.
        Err(_) => ["imatrix", state::KIND].iter().any(|kind| {
            let key = [&string("general.type")[..], &8_u32.to_le_bytes()[..], &string(kind)[..]].concat();
            head.windows(key.len()).any(|bytes| bytes == key)
        }),
    }
}

/// A text as GGUF has it.
fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn is_dat(path: &Path, head: &[u8]) -> bool {
    imatrix::Imatrix::load(path).is_ok() || begins_as_dat(head)
}

/// Number of entries, length of a name, the name: what is left of a legacy matrix that was cut short.
fn begins_as_dat(head: &[u8]) -> bool {
    let Some((numbers, rest)) = head.split_first_chunk::<8>() else { return false };
    let [entries, length] = [&numbers[..4], &numbers[4..]].map(|bytes| bytes.try_into().map_or(0, i32::from_le_bytes));
    let Ok(length) = usize::try_from(length) else { return false };
    let name = rest.get(..length).and_then(|name| std::str::from_utf8(name).ok());
    (1..=1_000_000).contains(&entries)
        && name.is_some_and(|name| name.contains('.') && !name.contains(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_matrices_and_states_whole_or_truncated_may_be_replaced() {
        let data = |name: &str| {
            let path = format!("{}/tests/data/formats/{name}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read(path).unwrap()
        };
        let mut state = Vec::new();
        let entry = llama_imatrix::exact::ExactEntry::zeros(8, 1);
        state::State {
            fingerprint: state::Fingerprint { accumulate: state::Accumulate::F64, ..Default::default() },
            progress: state::Progress::default(),
            output: state::Output { chunk_size: 512, ..Default::default() },
            likelihoods: None,
            measurements: None,
            curve: Vec::new(),
            sample: None,
            sums: state::SharedSums::exact([("blk.0.attn_k.weight", &entry)]),
        }
        .write(&mut state)
        .unwrap();
        let mut model = gguf::Writer::new();
        model.set("general.type", "model").set("general.architecture", "llama");
        let mut bytes = Vec::new();
        model.write_to(&mut bytes).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let may_be_replaced = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            refuse_foreign_matrix(&path).is_ok()
        };
        let (gguf, dat) = (data("dense.gguf"), data("dense.dat"));
        for (name, ours) in [("gguf", &gguf), ("dat", &dat), ("state", &state), ("bare", &data("bare.gguf"))] {
            assert!(may_be_replaced(ours), "{name}");
        }
        for cut in [300, gguf.len() / 2, gguf.len() - 1] {
            assert!(may_be_replaced(&gguf[..cut]), "{cut}");
        }
        assert!(may_be_replaced(&dat[..dat.len() - 1]) && may_be_replaced(b""));
        for foreign in [&bytes[..], &bytes[..40], b"a text\n", b"x", &[7; 3000], b"\x7fELF\x02\x01\x01\0\0\0\0\0"] {
            assert!(!may_be_replaced(foreign), "{:?}", &foreign[..foreign.len().min(20)]);
        }
        std::fs::remove_file(&path).unwrap();
        refuse_foreign_matrix(&path).unwrap();
    }
}
