//! The `kms-plugin` binary. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    kms_plugin::cli::run()
}
