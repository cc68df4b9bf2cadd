//! `support-bundle`: parses the command line, writes the bundle, and prints the progress and the result.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exit::{Exit, Failure, error_line};
use super::flags::ConfigFlags;
use super::{block_on, check, config, report};
use crate::diagnose::bundle::{self, BundleError, BundleOptions};
use crate::diagnose::check::CheckOptions;

/// Longest time for each step of the check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Collect everything that helps to find a fault, in one file, without secrets
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Run it as root. In the file: the merged configuration, the agent's status, health and metrics, \
                        the last journal lines, the units, the result of `kms-plugin check`, what is known about the \
                        key, the policy and the network, and the versions of the system.\n\
                        \n\
                        Credentials, tokens, passwords and private keys are removed from every text, also in base64 \
                        and in addresses. Host names, addresses, and names of keys and policies stay in the file: \
                        read it before you send it to anybody. Its mode is 0600."
)]
pub(super) struct BundleArgs {
    /// The file to write [default: kms-plugin-support-HOST-TIME.tar.gz in this directory]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Lines of the journal
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    lines: u32,
    /// Do not log in to Vault during the check
    #[arg(long)]
    no_login: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

pub(super) fn run(args: &BundleArgs) -> Result<(), Failure> {
    let (directory, default) = bundle::name();
    let file = args.file.clone().unwrap_or(default);
    may_write(&file)?;
    let progress = |step: &str| error_line(&format!("collecting {step}…"));
    progress("the configuration");
    let configuration = check::configuration(&args.flags, CHECK_TIMEOUT)?;
    let options = BundleOptions {
        configuration: match &configuration.merged {
            Ok(merged) => config::json(merged),
            Err(error) => format!("{}\n", error.to_string().replace('\n', "; ")),
        },
        check: CheckOptions {
            configuration,
            peers: Vec::new(),
            encryption_config: None,
            no_login: args.no_login,
            login: false,
            timeout: CHECK_TIMEOUT,
        },
        lines: args.lines,
    };
    let written = block_on(bundle::write(&file, &directory, &options, progress))?;
    let written = written.map_err(|error| match error {
        BundleError::Write(cause) => cannot_write(&file, cause),
        bug => Failure::new(Exit::Internal, bug),
    })?;
    report::line(&format!(
        "{} ({} KiB): {}\nCredentials, tokens and keys were removed. Names and addresses are still in it: read it before you send it.",
        file.display(),
        written.size.div_ceil(1024),
        written.parts.join(", ")
    ))
}

/// Checks before the work that a new file can be written.
fn may_write(file: &Path) -> Result<(), Failure> {
    if file.exists() {
        let message = format!("{} exists already; name another file with --file", file.display());
        return Err(Failure::message(Exit::Usage, message));
    }
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let access = nix::unistd::access(parent, nix::unistd::AccessFlags::W_OK);
    access.map_err(|error| cannot_write(parent, error.into()))
}

fn cannot_write(path: &Path, cause: std::io::Error) -> Failure {
    Failure::new(Exit::Unavailable, cause).context(format!("{} cannot be written", path.display()))
}
