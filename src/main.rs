//! The `kms-plugin` executable: the daemon, and the command that people type. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    kms_plugin::cli::daemon()
}
