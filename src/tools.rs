//! The `kms-plugin-tools` executable: the commands for administrators, which `kms-plugin` starts. Everything is in the
//! library.

use std::process::ExitCode;

fn main() -> ExitCode {
    kms_plugin::cli::tools()
}
