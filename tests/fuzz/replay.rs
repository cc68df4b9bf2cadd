//! Replays the corpora of the fuzz targets, so that what was found once stays mended.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::TARGETS;

/// Fewest inputs of a target.
const ENOUGH: usize = 10;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn entries(directory: &Path) -> BTreeSet<PathBuf> {
    let read = directory.read_dir().unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    read.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn each_corpus_is_read_without_a_fault() {
    for (name, target) in TARGETS {
        let inputs = entries(&fuzz().join("corpus").join(name));
        assert!(inputs.len() >= ENOUGH, "{name} has only {} inputs", inputs.len());
        for input in inputs {
            let bytes = std::fs::read(&input).unwrap();
            let ended = std::panic::catch_unwind(|| target(&bytes));
            assert!(ended.is_ok(), "cargo fuzz run {name} {}", input.display());
        }
    }
}

#[test]
fn each_target_has_a_program_and_a_corpus() {
    let names = |directory: &str| -> BTreeSet<String> {
        let stem = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        entries(&fuzz().join(directory)).iter().map(stem).collect()
    };
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &targets {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
        let program = std::fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("run(\"{name}\"")), "fuzz_targets/{name}.rs runs another target");
    }
}
