//! An EncryptionConfiguration.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a target that finds something panics

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::encryption_configuration::parse;

/// kube-apiserver's own loader, which `tests/tools` builds: one document a line, and one verdict a line.
struct Loader {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Loader {
    /// `None` unless the variable names the program.
    fn start() -> Option<Self> {
        let program = std::env::var_os("KMS_FUZZ_LOADER")?;
        let mut process = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("KMS_FUZZ_LOADER");
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let (input, output) = (input.expect("a pipe"), BufReader::new(output.expect("a pipe")));
        Some(Self { process, input, output })
    }

    fn loads(&mut self, text: &str) -> bool {
        writeln!(self.input, "{}", STANDARD.encode(text)).expect("the loader reads");
        let mut verdict = String::new();
        self.output.read_line(&mut verdict).expect("the loader answers");
        assert!(!verdict.is_empty(), "the loader ended at {text:?}");
        verdict.trim_end() == "ok"
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _waited = self.process.wait();
    }
}

/// A file. With `KMS_FUZZ_LOADER`, kube-apiserver's own loader must come to the same verdict.
pub(crate) fn encryption_configuration(input: &[u8]) {
    thread_local!(static LOADER: RefCell<Option<Loader>> = RefCell::new(Loader::start()));
    let Ok(text) = std::str::from_utf8(input) else { return };
    let ours = parse(text);
    LOADER.with_borrow_mut(|loader| {
        if let Some(loader) = loader {
            assert_eq!(loader.loads(text), ours.is_ok(), "the loader's verdict and {ours:?} of:\n{text}");
        }
    });
}
