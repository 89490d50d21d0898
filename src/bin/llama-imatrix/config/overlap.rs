//! Files that a command reads, and files that it writes: none is both.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use llama_imatrix::atomic_file::{Way, follow_links, is_leftover};
use llama_imatrix::convergence::ConvergenceFile;
use llama_imatrix::lens::file::LensFile;
use llama_imatrix::state::{Shard, model_files};

use super::output::{output_path, state_path};
use super::replaceable::refuse_gguf_as_log;
use crate::args::{Flags, Text};

/// Files of a command, each with the flag that names it.
#[derive(Debug, Default)]
pub(crate) struct Files {
    read: Vec<(&'static str, PathBuf)>,
    written: Vec<(&'static str, PathBuf)>,
    /// Written as `PATH.at_N`.
    copies_of: Option<PathBuf>,
}

const IN_FILE: &str = "--in-file";
const OUTPUT: &str = "--output";

impl Files {
    /// The files that flags name. A flag that takes a file has to be here: a test holds that.
    pub(crate) fn of_flags(flags: &Flags, shard: Shard) -> Self {
        let mut files = Self::default();
        files.add_read(flags);
        if flags.remote.named().is_none() {
            flags.model.iter().for_each(|model| files.read_model("--model", model));
        } else if flags.remote.url.is_some() {
            // Downloaded to where --model says.
            files.written.extend(flags.model.iter().map(|path| ("--model", path.clone())));
        }
        files.written.extend(flags.log.file.iter().map(|path| ("--log-file", path.clone())));
        if !flags.show_statistics {
            files.add_written(flags, shard);
        }
        files
    }

    /// Adds all files of a model that is read.
    pub(crate) fn read_model(&mut self, flag: &'static str, model: &Path) {
        self.read.extend(parts(model).into_iter().map(|path| (flag, path)));
    }

    fn add_read(&mut self, flags: &Flags) {
        if let Some(Text::Files(inputs)) = &flags.text {
            for input in inputs {
                self.read(if input.raw { "--binary-file" } else { "--file" }, input.path.clone());
            }
        }
        for path in &flags.in_file {
            self.read(IN_FILE, path.into());
        }
        for (flag, path) in
            [("--chat-template-file", &flags.chat_template_file), ("--kl-divergence-base", &flags.kl_divergence_base)]
        {
            self.read.extend(path.iter().map(|path| (flag, path.clone())));
        }
        flags.draft_model.iter().for_each(|model| self.read_model("--model-draft", model));
        self.read.extend(flags.lora.iter().map(|(path, _)| ("--lora", path.clone())));
        self.read.extend(flags.control_vectors.iter().map(|(path, _)| ("--control-vector", path.clone())));
    }

    /// The matrix, and what lies beside it.
    fn add_written(&mut self, flags: &Flags, shard: Shard) {
        let output = output_path(flags, shard);
        if matches!(Way::of(&output), Ok(Way::Stream)) {
            return;
        }
        if flags.text.is_some() {
            if shard.is_whole() {
                self.write("the state of --output", state_path(&output, shard));
            }
            if flags.logit_lens || flags.logit_prism || flags.layer_similarity {
                self.write("the lens file of --output", LensFile::beside(&output));
            }
            if flags.compares_halves() && shard.is_whole() {
                self.write("the convergence file of --output", ConvergenceFile::beside(&output));
            }
            self.copies_of = (flags.save_frequency > 0).then(|| output.clone());
        }
        self.write(OUTPUT, output);
    }

    /// One more file that is read.
    pub(crate) fn read(&mut self, flag: &'static str, path: PathBuf) {
        self.read.push((flag, path));
    }

    /// One more file that is written.
    pub(crate) fn write(&mut self, flag: &'static str, path: PathBuf) {
        self.written.push((flag, path));
    }

    /// Fails where a file is both, or would be written twice. `--in-file x -o x` is allowed where x is replaced as a whole:
    /// the matrix has the file's sums.
    pub(crate) fn refuse_overlap(&self) -> anyhow::Result<()> {
        let stdout = stdout().map(|id| ("standard output", id));
        let identified = self.written.iter().filter_map(|(flag, path)| Some((*flag, Id::of(path)?)));
        let written: Vec<(&str, Id)> = identified.chain(stdout).collect();
        for (reader, path) in &self.read {
            let shown = path.display();
            let id = Id::of(path);
            if let Some((writer, _)) = written.iter().find(|(_, written)| Some(written) == id.as_ref()) {
                let replaces = (*reader, *writer) == (IN_FILE, OUTPUT);
                ensure!(
                    replaces && matches!(Way::of(path), Ok(Way::Replace)),
                    "'{shown}' is read by {reader} and would be overwritten by {writer}{}\nhint: write to another file",
                    if replaces { ", which cannot replace it as a whole" } else { "" }
                );
            }
            if let Some((writer, _)) = self.written.iter().find(|(_, written)| is_leftover(path, written)) {
                bail!(
                    "'{shown}' is read by {reader} and has the name of an unfinished save of {writer}, which is removed\n\
                     hint: rename it"
                );
            }
            // Copies are named by their chunks, those of --in-file included: its own number does not come again.
            let output = self.copies_of.as_ref().filter(|output| *reader != IN_FILE && is_copy(path, output));
            if let Some(output) = output {
                bail!(
                    "'{shown}' is read by {reader} and may be overwritten by --save-frequency, whose copies are named \
                     '{}.at_N'\nhint: rename it, or write to another file",
                    output.display()
                );
            }
        }
        for (i, (flag, id)) in written.iter().enumerate() {
            if let Some((other, _)) = written[..i].iter().find(|(_, other)| other == id) {
                bail!("{other} and {flag} would be written to the same file\nhint: give each its own file");
            }
        }
        Ok(())
    }

    /// Fails where the log would be written over what is read: it is begun before anything is read. Of folders with texts
    /// all files count.
    pub(crate) fn refuse_log(flags: &Flags) -> anyhow::Result<()> {
        let Some(log) = &flags.log.file else { return Ok(()) };
        refuse_gguf_as_log(log)?;
        let mut files = Self { written: vec![("--log-file", log.clone())], ..Self::default() };
        files.add_read(flags);
        files.read.extend(flags.model.iter().flat_map(|model| parts(model)).map(|path| ("--model", path)));
        let folders: Vec<PathBuf> =
            files.read.iter().map(|(_, path)| path).filter(|path| path.is_dir()).cloned().collect();
        let is_in = |folder: &PathBuf| {
            let (Ok(folder), Ok(log)) = (folder.canonicalize(), log.canonicalize()) else { return false };
            log.strip_prefix(folder).is_ok_and(|rest| !rest.components().any(|part| is_hidden(part.as_os_str())))
        };
        if let Some(folder) = folders.iter().find(|folder| is_in(folder)) {
            bail!(
                "'{}' is read by --file as a part of '{}' and would be overwritten by --log-file\n\
                 hint: write the log to another folder",
                log.display(),
                folder.display()
            );
        }
        files.refuse_overlap()
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Returns all files of a model, or the named one if the others are unknown.
fn parts(model: &Path) -> Vec<PathBuf> {
    let all = if model.is_file() { model_files(model).ok() } else { None };
    all.unwrap_or_else(|| vec![model.to_owned()])
}

/// Identity of a file: two names may lead to one.
#[derive(Debug, PartialEq, Eq)]
enum Id {
    /// Device and inode.
    #[cfg(unix)]
    Inode(u64, u64),
    /// The place of a file that is not there yet.
    Place(PathBuf),
}

impl Id {
    /// `None` for what is no regular file: a device may be read and written.
    fn of(path: &Path) -> Option<Self> {
        match path.metadata() {
            Ok(metadata) if metadata.is_file() => Self::of_file(path, &metadata),
            Ok(_) => None,
            Err(_) => {
                let target = follow_links(path).ok()?;
                let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
                Some(Self::Place(folder.join(target.file_name()?)))
            }
        }
    }

    #[cfg(unix)]
    #[expect(clippy::unnecessary_wraps, reason = "other systems may fail")]
    fn of_file(_: &Path, metadata: &std::fs::Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        Some(Self::Inode(metadata.dev(), metadata.ino()))
    }

    #[cfg(not(unix))]
    fn of_file(path: &Path, _: &std::fs::Metadata) -> Option<Self> {
        path.canonicalize().ok().map(Self::Place)
    }
}

/// Standard output, if it is a regular file.
#[cfg(unix)]
fn stdout() -> Option<Id> {
    use std::os::fd::AsFd as _;
    let file = std::fs::File::from(std::io::stdout().as_fd().try_clone_to_owned().ok()?);
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Id::of_file(Path::new(""), &metadata)
}

#[cfg(not(unix))]
fn stdout() -> Option<Id> {
    None
}

/// Returns true if `path` has the name of a numbered copy of `output`.
fn is_copy(path: &Path, output: &Path) -> bool {
    let Some(Id::Place(output)) = place(output) else { return false };
    let Some(Id::Place(path)) = place(path) else { return false };
    let number = path.as_os_str().as_encoded_bytes().strip_prefix(output.as_os_str().as_encoded_bytes());
    let number = number.and_then(|rest| rest.strip_prefix(b".at_"));
    number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

/// Returns the place of a name, even if it leads to no file.
fn place(path: &Path) -> Option<Id> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some(Id::Place(folder.canonicalize().ok()?.join(path.file_name()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;

    fn of(words: &[&str]) -> Files {
        let words = std::iter::once("llama-imatrix").chain(words.iter().copied()).map(Into::into);
        Files::of_flags(&args::parse(words).unwrap().flags, Shard::WHOLE)
    }

    /// A flag that takes a file and is in no list would let its file be overwritten, or overwrite another's.
    #[test]
    fn each_flag_that_takes_a_file_is_in_a_list() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some-file");
        let path = path.to_str().unwrap();
        let mut seen = 0;
        // --hf-file is a name in a repository.
        for (name, value) in args::names_of_flags_with_files().filter(|(name, _)| *name != "--hf-file") {
            let value = if value.contains("SCALE") { format!("{path}:1") } else { path.to_owned() };
            let listed = |files: &Files| {
                let all = files.read.iter().chain(&files.written);
                all.filter(|(_, listed)| listed == Path::new(path)).count()
            };
            assert_eq!(listed(&of(&[name, &value])), 1, "{name}");
            seen += 1;
        }
        assert!(seen > 10, "the table of flags was read");
    }

    #[test]
    fn files_beside_the_output_count_as_outputs() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let refused = |read: &str, more: &[&str]| {
            std::fs::write(path(read), b"text").unwrap();
            let (read, output) = (path(read), path("m.gguf"));
            let result = of(&[&["-f", &read, "-o", &output], more].concat()).refuse_overlap();
            std::fs::remove_file(&read).unwrap();
            result.map_err(|error| error.to_string()).err()
        };
        for (read, more, writer) in [
            ("m.gguf", &[][..], "--output"),
            ("m.gguf.state", &[], "the state of --output"),
            ("m.lens.json", &["--logit-prism"], "the lens file of --output"),
            ("m.convergence.json", &["--stop-when-converged", "0.9"], "the convergence file of --output"),
            ("m.gguf.at_30", &["--save-frequency", "10"], "--save-frequency"),
            (".m.gguf.Ab3dE6.imatrix-tmp", &[], "unfinished save"),
        ] {
            let error = refused(read, more).unwrap_or_else(|| panic!("{read} is not refused"));
            assert!(error.contains("is read by --file") && error.contains(writer), "{error}");
        }
        for (read, more) in [
            ("m.lens.json", &[][..]),
            ("m.gguf.at_30", &[]),
            ("m.gguf.at_x", &["--save-frequency", "10"]),
            ("t.txt", &[]),
        ] {
            assert_eq!(refused(read, more), None, "{read}");
        }
        let log = path("m.gguf.state");
        let error = of(&["-p", "text", "-o", &path("m.gguf"), "--log-file", &log]).refuse_overlap().unwrap_err();
        assert!(error.to_string().contains("would be written to the same file"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn other_names_of_a_file_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("t.txt"), b"text").unwrap();
        std::os::unix::fs::symlink("t.txt", path("link")).unwrap();
        std::fs::hard_link(path("t.txt"), path("hard")).unwrap();
        for name in ["link", "hard", "../x/t.txt"] {
            let name = name.replace("../x", &format!("../{}", dir.path().file_name().unwrap().to_str().unwrap()));
            assert!(of(&["-f", &path("t.txt"), "-o", &path(&name)]).refuse_overlap().is_err(), "{name}");
        }
        of(&["-f", "/dev/null", "-o", "/dev/null", "--log-file", "/dev/null"]).refuse_overlap().unwrap();
    }
}
