//! The two executables behind the one command `kms-plugin`.
//!
//! The daemon holds keys, so it links only what serving needs. All other commands are in `kms-plugin-tools`, which
//! comes with the same package. The daemon starts it by its absolute path, and never searches PATH: otherwise
//! somebody who can put a file into PATH could make root run it.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::exit::{Exit, Failure};

/// File name of the executable with the tools.
const TOOLS: &str = "kms-plugin-tools";
/// Where packages install it, relative to the directory of the daemon.
const LIBEXEC: &str = "../libexec/kms-plugin";

/// Replaces this process with the tools, which run `arguments`. Returns only when that fails.
pub(super) fn run_tools(arguments: &[OsString]) -> Failure {
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(error) => {
            return Failure::new(Exit::Internal, error).context("the path of kms-plugin is unknown".into());
        }
    };
    let Some(tools) = candidates(&own).into_iter().find(|path| path.is_file()) else {
        let message = format!(
            "this command is in {TOOLS}, which is neither beside {} nor in {LIBEXEC} relative to it; install the \
             whole package, or copy both files; in a checkout, `cargo build` makes both",
            own.display()
        );
        return Failure::message(Exit::Unavailable, message);
    };
    if let Err(error) = check_owner(&tools, &own) {
        return Failure::message(Exit::Unavailable, error);
    }
    let mut command = Command::new(&tools);
    if let Some((name, rest)) = arguments.split_first() {
        command.arg0(name).args(rest);
    }
    let error: io::Error = command.exec();
    Failure::new(Exit::Unavailable, error).context(format!("{} cannot be run", tools.display()))
}

/// Root must not run a file that another user has put beside a copy of the daemon, as in /tmp.
///
/// # Errors
/// What is wrong with the owner or the mode, in words for an administrator.
fn check_owner(tools: &Path, own: &Path) -> Result<(), String> {
    let look = |path: &Path| {
        std::fs::metadata(path).map_err(|error| format!("{} cannot be checked: {error}", path.display()))
    };
    let (file, directory) = (look(tools)?, look(tools.parent().unwrap_or(Path::new("/")))?);
    let trusted = [0, nix::unistd::geteuid().as_raw(), look(own)?.uid()];
    let shown = tools.display();
    if !trusted.contains(&file.uid()) {
        return Err(format!("{shown} belongs to user {}, and is not run; install it as root", file.uid()));
    }
    if (file.mode() | directory.mode()) & 0o002 != 0 {
        return Err(format!(
            "every user can write to {shown} or to its directory, so it is not run; move both executables to a \
             directory of root, such as /usr/local/bin"
        ));
    }
    Ok(())
}

/// Where the tools may be: in a checkout and in the image beside the daemon, from packages in libexec.
fn candidates(own: &Path) -> [PathBuf; 2] {
    let directory = own.parent().unwrap_or(Path::new("/"));
    [directory.join(TOOLS), directory.join(LIBEXEC).join(TOOLS)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_are_looked_for_beside_the_daemon_and_in_libexec_only() {
        let [beside, libexec] = candidates(Path::new("/usr/bin/kms-plugin"));
        assert_eq!(beside, Path::new("/usr/bin/kms-plugin-tools"));
        assert_eq!(libexec, Path::new("/usr/bin/../libexec/kms-plugin/kms-plugin-tools"));
    }
}
