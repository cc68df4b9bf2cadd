//! The support bundle: everything that helps to find a fault, in one file, without secrets.
//!
//! `collect` makes the texts, `secrets` finds the secrets of this node, `redaction` removes them, also where `disguise` finds them in another form, `archive` packs the
//! result. Must not know the command line, nor print.

mod archive;
mod collect;
mod disguise;
mod redaction;
mod secrets;

#[cfg(any(test, fuzzing))]
#[path = "../../../tests/fuzz/redaction.rs"]
pub(crate) mod fuzz;

use std::io;
use std::path::Path;

use super::check::CheckOptions;
use archive::Archive;
use redaction::Redaction;

pub(crate) use archive::name;

/// What to collect.
pub(crate) struct BundleOptions {
    /// The check whose result goes into the bundle.
    pub(crate) check: CheckOptions,
    /// The merged configuration with the origin of each value, or why there is none.
    pub(crate) configuration: String,
    /// Lines of the journal.
    pub(crate) lines: u32,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    #[error("a pattern for secrets is not valid; report this as a bug")]
    Pattern(#[from] regex::Error),
    #[error("a secret is left in {part}: nothing was written; report this as a bug")]
    SecretLeft { part: &'static str },
    #[error(transparent)]
    Write(#[from] io::Error),
}

/// A bundle that was written.
pub(crate) struct Bundle {
    /// Its size in bytes.
    pub(crate) size: u64,
    /// The names of its parts.
    pub(crate) parts: Vec<&'static str>,
}

/// Collects everything, and writes it to the new file `path`, below `directory` in the archive. `progress` gets the
/// name of each step.
///
/// # Errors
/// When a secret cannot be removed, or the file cannot be written. Then there is no file.
pub(crate) async fn write(
    path: &Path,
    directory: &str,
    options: &BundleOptions,
    progress: impl FnMut(&str),
) -> Result<Bundle, BundleError> {
    let redaction = Redaction::new(&secrets::of_this_node(&options.check.configuration).await)?;
    let parts = collect::parts(options, progress).await;
    let mut archive = Archive::new(directory);
    for (part, text) in &parts {
        let clean = redaction.apply(text);
        if !redaction.is_clean(&clean) {
            return Err(BundleError::SecretLeft { part });
        }
        archive.add(part, &clean)?;
    }
    let size = archive.write(path)?;
    Ok(Bundle { size, parts: parts.into_iter().map(|(part, _)| part).collect() })
}
