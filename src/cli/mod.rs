//! The command line: one file a subcommand. The only place that writes to stdout and knows exit codes.

mod accept_key;
pub(crate) mod agent_args;
pub(crate) mod check;
mod cluster_args;
mod config;
mod dev;
mod executables;
pub(crate) mod exit;
pub(crate) mod flags;
mod manual;
mod nodes;
mod overview;
mod probe;
mod reload;
mod render;
pub(crate) mod report;
mod rewrite;
mod serve;
mod status;
mod support_bundle;
mod verify_etcd;

// What `fuzz/` runs.
#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/mod.rs"]
pub mod fuzz;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::{compat, fips, process};
use exit::{Exit, Failure};

/// A Kubernetes KMS v2 plugin: wraps DEK seeds with a Transit key in HashiCorp Vault or OpenBao.
#[derive(Debug, Parser)]
#[command(
    name = "kms-plugin",
    bin_name = "kms-plugin",
    version = fips::version(),
    about,
    max_term_width = 110,
    args_conflicts_with_subcommands = true
)]
#[command(after_help = "Without a command, kms-plugin serves, with the flags of: kms-plugin serve --help\n\
                        Try it without a Vault: kms-plugin dev\n\
                        The flags of vault-kubernetes-kms and vault-kube-kms are accepted, too: docs/flags.md\n\
                        Exit codes: 0 ok, 64 usage, 69 unavailable, 70 internal, 78 configuration; check, status,\n\
                        nodes, verify-etcd and rewrite also have results of their own: 1, 2 and 3.")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve KMS v2 on the socket (the default command)
    Serve(serve::ServeArgs),
    /// Try it out with keys in a local file: for development only
    Dev(dev::DevArgs),
    /// Call a KMS v2 plugin as kube-apiserver does, and time it
    Probe(probe::ProbeArgs),
    /// Check everything that must be right on this node, and suggest a fix for each problem
    Check(check::CheckArgs),
    /// Show the state of the running agent
    Status(status::StatusArgs),
    /// Collect everything that helps to find a fault, in one file, without secrets
    SupportBundle(support_bundle::BundleArgs),
    /// Show the merged configuration and where each value came from
    Config(config::ConfigArgs),
    /// Reload the configuration of a running agent, and wait for the result
    Reload(reload::ReloadArgs),
    /// Write manifests, policies and drop-ins for this configuration
    Render(render::RenderArgs),
    /// Tell what the objects in etcd are encrypted with: is the migration or the rotation finished?
    VerifyEtcd(verify_etcd::VerifyEtcdArgs),
    /// Make the API servers store every object anew: the last step of a rotation or a migration
    Rewrite(rewrite::RewriteArgs),
    /// Show the agents of all nodes side by side: do they agree?
    Nodes(nodes::NodesArgs),
    /// Accept that the key was replaced or rolled back, and give up the data under the old key
    AcceptKey(accept_key::AcceptKeyArgs),
    /// Print the completions of a shell
    Completions(manual::CompletionsArgs),
    /// Write the man pages, for packages
    #[command(hide = true)]
    Man(manual::ManArgs),
}

/// The daemon: serves, and does what belongs to serving. All other commands are passed on to the tools.
pub fn daemon() -> ExitCode {
    process::harden();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let (command, compat) = match parse(arguments.clone()) {
        Ok(parsed) => parsed,
        Err(exit) => return exit.into(),
    };
    end(match command {
        Command::Serve(args) => without_verdict(serve::run(args, compat)),
        Command::Reload(args) => without_verdict(reload::run(&args)),
        Command::Dev(args) => without_verdict(dev::run(&args)),
        _ => Err(executables::run_tools(&arguments)),
    })
}

/// The tools: every command that the daemon passes on.
pub fn tools() -> ExitCode {
    process::harden();
    let (command, _) = match parse(std::env::args_os().collect()) {
        Ok(parsed) => parsed,
        Err(exit) => return exit.into(),
    };
    end(match command {
        Command::Serve(_) | Command::Reload(_) | Command::Dev(_) => Err(Failure::message(
            Exit::Usage,
            "this is a command of kms-plugin itself: kms-plugin serve, reload or dev",
        )),
        Command::Probe(args) => without_verdict(probe::run(&args)),
        Command::Check(args) => check::run(&args),
        Command::Status(args) => status::run(&args),
        Command::SupportBundle(args) => without_verdict(support_bundle::run(&args)),
        Command::Config(args) => without_verdict(config::run(&args)),
        Command::VerifyEtcd(args) => verify_etcd::run(&args),
        Command::Rewrite(args) => rewrite::run(&args),
        Command::Nodes(args) => nodes::run(&args),
        Command::Render(args) => without_verdict(render::run(&args)),
        Command::AcceptKey(args) => without_verdict(accept_key::run(&args)),
        Command::Completions(args) => without_verdict(manual::completions(&args)),
        Command::Man(args) => without_verdict(manual::man(&args)),
    })
}

/// The definition of the command line. The help of `serve` alone shows the flags of the configuration: the other commands
/// accept them, too, and their own flags would be lost between a hundred others.
fn command() -> clap::Command {
    Cli::command().mut_subcommand("serve", flags::shown)
}

/// Parses a command line, and prints help and usage errors. The FIPS build ends here when it is not in FIPS mode.
fn parse(arguments: Vec<OsString>) -> Result<(Command, compat::CompatFlags), Exit> {
    fips::verify().map_err(|error| Failure::new(Exit::Internal, error).tell())?;
    let translated = compat::translate(arguments, std::env::vars_os());
    let translated = translated.map_err(|error| Failure::from(error).tell())?;
    let parsed = command().try_get_matches_from(translated.arguments);
    match parsed.and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches)) {
        Ok(cli) => Ok((cli.command.unwrap_or(Command::Serve(cli.serve)), translated.flags)),
        Err(error) => {
            let _closed = error.print();
            if let (ErrorKind::UnknownArgument, Some(flag)) =
                (error.kind(), error.get(ContextKind::InvalidArg))
            {
                exit::error_line(&format!("\n{}", compat::hint(&flag.to_string())));
            }
            Err(if error.use_stderr() { Exit::Usage } else { Exit::Ok })
        }
    }
}

fn end(result: Result<Exit, Failure>) -> ExitCode {
    result.unwrap_or_else(|failure| failure.tell()).into()
}

/// For a command that either succeeds or fails: its exit code shows no other result.
fn without_verdict(result: Result<(), Failure>) -> Result<Exit, Failure> {
    result.map(|()| Exit::Ok)
}

/// Runs a command to its end on the tokio runtime. It has few threads, also on a large machine, because the tasks mostly
/// wait. A thread that still waits then, for a hung file system or a name server, does not delay the end of the process.
fn block_on<T>(command: impl Future<Output = T>) -> Result<T, Failure> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, 4))
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Internal, error))?;
    let ended = runtime.block_on(command);
    runtime.shutdown_background();
    Ok(ended)
}
