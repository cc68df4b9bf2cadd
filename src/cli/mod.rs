//! The command line: one file a subcommand. The only place that writes to stdout and knows exit codes.

mod accept_key;
mod client;
mod config;
mod dev;
mod exit;
mod flags;
mod foreign;
mod manual;
mod probe;
mod reload;
mod render;
mod report;
mod serve;
mod verify_etcd;

use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{Parser, Subcommand};

use exit::{Exit, Failure};
use flags::ConfigFlags;

/// A Kubernetes KMS v2 plugin: wraps DEK seeds with a Transit key in HashiCorp Vault or OpenBao.
#[derive(Debug, Parser)]
#[command(name = "kms-plugin", version, about, max_term_width = 110, args_conflicts_with_subcommands = true)]
#[command(after_help = "Without a command, kms-plugin serves. Try it without a Vault: kms-plugin dev\n\
                        The flags of vault-kubernetes-kms and vault-kube-kms are accepted, too: docs/flags.md\n\
                        Exit codes: 0 ok, 1 the answer is no (verify-etcd), 64 usage, 69 unavailable, 70 internal, 78 configuration.")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ConfigFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve KMS v2 on the socket (the default command)
    Serve(ConfigFlags),
    /// Try it out with keys in a local file: for development only
    Dev(dev::DevArgs),
    /// Call a KMS v2 plugin as kube-apiserver does, and time it
    Probe(probe::ProbeArgs),
    /// Show the merged configuration and where each value came from
    Config(config::ConfigArgs),
    /// Have a running agent read its configuration again, and wait for the outcome
    Reload(reload::ReloadArgs),
    /// Write manifests, policies and drop-ins for this configuration
    Render(render::RenderArgs),
    /// Tell what the objects in etcd are encrypted with: is the migration or the rotation finished?
    VerifyEtcd(verify_etcd::VerifyEtcdArgs),
    /// Accept that the key was replaced or rolled back: what was written under the old one is given up
    AcceptKey(accept_key::AcceptKeyArgs),
    /// Print the completions of a shell
    Completions(manual::CompletionsArgs),
    /// Write the man pages, for packages
    #[command(hide = true)]
    Man(manual::ManArgs),
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let (arguments, foreign) = match foreign::take(std::env::args_os().collect(), std::env::vars_os()) {
        Ok(taken) => taken,
        Err(failure) => return failure.tell().into(),
    };
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _closed = error.print();
            if let (ErrorKind::UnknownArgument, Some(flag)) =
                (error.kind(), error.get(ContextKind::InvalidArg))
            {
                report::error_line(&format!("\n{}", foreign::hint(&flag.to_string())));
            }
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    let result = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(flags) => serve::run(&flags.with_foreign(foreign)),
        Command::Dev(args) => dev::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Render(args) => render::run(&args),
        Command::VerifyEtcd(args) => match verify_etcd::run(&args) {
            Ok(answer) => return answer.into(),
            Err(failure) => Err(failure),
        },
        Command::AcceptKey(args) => accept_key::run(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    };
    match result {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => failure.tell().into(),
    }
}

/// The runtime: few threads, whatever the size of the machine. The work is waiting.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, 4))
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Internal, error))
}
