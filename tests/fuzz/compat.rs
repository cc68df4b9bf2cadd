//! Another plugin's command line and variables.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a target that finds something panics

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use super::translate;
use crate::config::Sources;

/// Arguments, and variables behind an empty argument, each ended by a NUL.
pub(crate) fn command_line(input: &[u8]) {
    let words = input.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    let (mut arguments, mut variables) = (vec![OsString::from("kms-plugin")], Vec::new());
    let mut is_variable = false;
    for word in words {
        match (word.is_empty(), is_variable) {
            (true, _) => is_variable = true,
            (false, false) => arguments.push(word),
            (false, true) => {
                let text = word.into_vec();
                let mut parts = text.splitn(2, |byte| *byte == b'=').map(<[u8]>::to_vec);
                let mut next = || OsString::from_vec(parts.next().unwrap_or_default());
                variables.push((next(), next()));
            }
        }
    }
    let Ok(translated) = translate(arguments, variables.into_iter()) else { return };
    let flags = translated.flags;
    for warning in &flags.warnings {
        assert!(!warning.contains(crate::untrusted::is_hidden), "{warning:?}");
    }
    // Secrets wait in memory until the process ends: not here.
    let files = flags.values.iter().filter_map(|(_, value)| value.strip_prefix("/proc/self/fd/"));
    let files: Vec<i32> = files.filter_map(|number| number.parse().ok()).collect();
    crate::config::fuzz::judge(&Sources {
        defaults: flags.defaults,
        flags: flags.values,
        ..Sources::default()
    });
    for file in files.into_iter().filter(|file| *file > 2) {
        let link = std::fs::read_link(format!("/proc/self/fd/{file}"));
        if link.is_ok_and(|link| link.to_string_lossy().contains("kms-plugin-secret")) {
            nix::unistd::close(file).expect("the file of a secret");
        }
    }
}
