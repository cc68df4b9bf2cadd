//! The archive: one tar.gz that only its owner can read, written as a whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;

/// An archive in memory: after an error, no incomplete file is left.
pub(crate) struct Archive {
    directory: String,
    builder: tar::Builder<GzEncoder<Vec<u8>>>,
}

impl Archive {
    /// All its files are below `directory`.
    pub(crate) fn new(directory: &str) -> Self {
        let encoder = GzEncoder::new(Vec::new(), Compression::default());
        Self { directory: directory.to_owned(), builder: tar::Builder::new(encoder) }
    }

    pub(crate) fn add(&mut self, name: &str, text: &str) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
        let path = format!("{}/{name}", self.directory);
        self.builder.append_data(&mut header, path, text.as_bytes())
    }

    /// Writes it to a new file with mode 0600. Returns the size in bytes.
    ///
    /// # Errors
    /// Those of the system, and `AlreadyExists`: an existing file is not changed.
    pub(crate) fn write(self, path: &Path) -> io::Result<u64> {
        let bytes = self.builder.into_inner()?.finish()?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let written = file.write_all(&bytes).and_then(|()| file.sync_all());
        if written.is_err() {
            let _incomplete = fs::remove_file(path);
        }
        written.map(|()| bytes.len() as u64)
    }
}

/// The name of the directory in a bundle of this node and moment, and the name of its file.
pub(crate) fn name() -> (String, PathBuf) {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let host: String = host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let now: String = now.chars().filter(char::is_ascii_alphanumeric).collect();
    let name = format!("kms-plugin-support-{host}-{now}");
    let file = PathBuf::from(format!("{name}.tar.gz"));
    (name, file)
}
