//! `check`: parses the command line, runs the checks, and prints the findings.

use std::path::PathBuf;
use std::time::Duration;

use super::block_on;
use super::exit::{Exit, Failure};
use super::flags::ConfigFlags;
use super::report::{self, Output};
use crate::diagnose::check::{self, CheckOptions, Configuration, Outcome, Report, finding_text};
use crate::files;

/// Shortest `--timeout`: less says nothing of a server.
const SHORTEST: Duration = Duration::from_millis(100);

/// Check everything that must be right on this node, and suggest a fix for each problem
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Run it as root, before the agent is started or while it runs. It reads the same configuration, and \
                        needs no permission in Vault that the agent does not have. In order it checks: the \
                        configuration, also as the user of the service; the secret files; for each address DNS, TCP, \
                        TLS and sys/health; the login, the token, the policy, the key and 20 round trips; what the \
                        unit forbids or limits; the directories, the units, the socket, the admin address, the \
                        running agent; and with local KEKs whether it is ready for an outage.\n\
                        \n\
                        Refused credentials are not sent again for 15 minutes, so that repeated checks do not lock \
                        the role for every node. \n\
                        \n\
                        A login may use something up: a secret-id or a token can have a limited number of uses, and a \
                        wrapping token has one. So the check does not log in by AppRole, uses no token of a file and \
                        unwraps nothing, unless --login says so. It shows what the running agent knows, and what it \
                        did not try.\n\
                        \n\
                        Exit codes: 0 no problem, 1 a warning, 2 something fails, 64 usage.\n\
                        \n\
                        Other nodes:  ssh node-2 kms-plugin status --output json > node-2.json\n              \
                                      kms-plugin check --peer node-2.json"
)]
pub(crate) struct CheckArgs {
    /// Compare the key_id with another node's: its admin address (http://HOST:PORT), or a file with the output of
    /// `kms-plugin status --output json` there; may be repeated
    #[arg(long, value_name = "URL|FILE")]
    peer: Vec<String>,
    /// Also check this EncryptionConfiguration of kube-apiserver
    #[arg(long, value_name = "FILE")]
    encryption_config: Option<PathBuf>,
    /// Do not log in: everything that needs a token is skipped
    #[arg(long, conflicts_with = "login")]
    no_login: bool,
    /// Log in also where that may use something up: one use of a secret-id or of a token
    #[arg(long)]
    login: bool,
    /// Longest time for each step
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Format of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    flags: ConfigFlags,
}

pub(crate) fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    if args.timeout < SHORTEST {
        return Err(Failure::message(Exit::Usage, format!("--timeout must be {SHORTEST:?} or longer")));
    }
    let options = CheckOptions {
        configuration: configuration(&args.flags, args.timeout)?,
        peers: args.peer.clone(),
        encryption_config: args.encryption_config.clone(),
        no_login: args.no_login,
        login: args.login,
        timeout: args.timeout,
    };
    let is_text = args.output == Output::Text;
    let width = report::width();
    let mut printed = Ok(());
    let mut report = Report::new(|finding| {
        if is_text && printed.is_ok() {
            printed = report::styled(&finding_text(finding, width));
        }
    });
    block_on(check::run(&options, &mut report))?;
    let (summary, json, worst) = (report.summary(), report.json(), report.worst());
    drop(report);
    printed?;
    match args.output {
        Output::Json => report::line(&serde_json::to_string_pretty(&json).unwrap_or_default())?,
        Output::Text => report::line(&format!("\n{summary}"))?,
    }
    Ok(match worst {
        Outcome::Ok | Outcome::Skipped => Exit::Ok,
        Outcome::Warn => Exit::Warned,
        Outcome::Fail => Exit::Failed,
    })
}

/// Reads the configuration, within a time: its file system may hang.
pub(super) fn configuration(flags: &ConfigFlags, timeout: Duration) -> Result<Configuration, Failure> {
    let (flags, file) = (flags.clone(), flags.file());
    let read = block_on(files::in_time(timeout, move || Ok(flags.configuration())))?;
    read.map_err(|error| {
        let shown = file.display();
        Failure::new(Exit::Unavailable, error)
            .context(format!("the configuration {shown} cannot be read; findmnt lists the mounts"))
    })
}
