//! Configuration files.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a target that finds something panics

use super::{Merged, Settings, Sources};

thread_local!(static DIRECTORY: tempfile::TempDir = tempfile::tempdir().expect("a directory"));

/// A file and a fragment beside it, divided by a NUL: they are refused with places, or make settings.
pub(crate) fn file(input: &[u8]) {
    DIRECTORY.with(|directory| {
        let (file, fragments) = (directory.path().join("config.toml"), directory.path().join("config.d"));
        let mut parts = input.splitn(2, |byte| *byte == 0);
        std::fs::write(&file, parts.next().unwrap_or_default()).expect("a file");
        match parts.next() {
            Some(fragment) => {
                std::fs::create_dir_all(&fragments).expect("a directory");
                std::fs::write(fragments.join("10.toml"), fragment).expect("a fragment");
            }
            None => drop(std::fs::remove_dir_all(&fragments)),
        }
        judge(&Sources { file: Some(file), required: true, ..Sources::default() });
    });
}

/// Loads a configuration. A refusal has a place and a reason for each problem.
pub(crate) fn judge(sources: &Sources) {
    let settings = Merged::load(sources).and_then(|merged| Settings::from_merged(&merged));
    match settings {
        Ok(settings) => assert!(!settings.digest.is_empty()),
        Err(refused) => {
            assert!(!refused.problems.is_empty());
            let text = refused.to_string();
            assert!(!text.lines().any(|line| line.contains(crate::untrusted::is_hidden)), "{refused:?}");
        }
    }
}
