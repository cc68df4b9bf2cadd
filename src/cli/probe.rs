//! `probe`: parses the command line, probes a KMS v2 plugin, and prints the progress and the result. With `--live` or
//! `--ready` it asks our own agent instead, for the probes of the kubelet.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::agent_args::{AgentArgs, failure};
use super::block_on;
use super::exit::{Exit, Failure};
use super::report::{self, Output};
use crate::admin::ProbeEndpoint;
use crate::diagnose::probe::{self, ProbeOptions, Report};
use crate::kms::client;

/// Most round trips of one run: their times are kept for the percentiles.
const MAX_COUNT: u64 = 1_000_000;

/// Call a KMS v2 plugin as kube-apiserver does, and time it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each round trip is an Encrypt of 32 random bytes and a Decrypt that must return them.\n\
                        Works with any KMS v2 plugin. The exit code is 0 only if every answer was right.\n\
                        With --live or --ready it asks a running kms-plugin on its admin socket: exit code 0, or 69\n\
                        with the reason."
)]
pub(super) struct ProbeArgs {
    /// Socket of the plugin; it may begin with unix://
    #[arg(long, value_name = "PATH", default_value = "/run/kmsplugin/kms.sock")]
    socket: String,
    /// Round trips in all
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=MAX_COUNT))]
    count: u64,
    /// Round trips at the same time
    #[arg(long, value_name = "C", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    concurrency: u64,
    /// Time for each call, as in EncryptionConfiguration
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Format of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Instead, ask whether the agent's process works, as /livez does: for a liveness probe by exec
    #[arg(long, conflicts_with_all = ["ready", "socket", "count", "concurrency", "output"])]
    live: bool,
    /// Instead, ask whether an Encrypt would work, as /readyz does: for a readiness probe by exec
    #[arg(long, conflicts_with_all = ["socket", "count", "concurrency", "output"])]
    ready: bool,
    #[command(flatten)]
    agent: AgentArgs,
}

pub(super) fn run(args: &ProbeArgs) -> Result<(), Failure> {
    if args.timeout.is_zero() {
        return Err(Failure::message(Exit::Usage, "--timeout must be longer than zero"));
    }
    if args.live || args.ready {
        let endpoint = if args.live { ProbeEndpoint::Live } else { ProbeEndpoint::Ready };
        let answer = block_on(args.agent.client(args.timeout).probe(endpoint))?;
        return match answer.map_err(|error| failure(error, Exit::Unavailable))? {
            None => report::line("ok"),
            Some(why) => Err(Failure::message(Exit::Unavailable, why)),
        };
    }
    let options = ProbeOptions {
        socket: client::socket_path(&args.socket),
        count: args.count,
        concurrency: args.concurrency,
        timeout: args.timeout,
    };
    let bar = progress(args.count);
    let counter = bar.clone();
    let probed = block_on(probe::run(&options, move || counter.inc(1)))?;
    bar.finish_and_clear();
    let probed = probed.map_err(|error| Failure::new(Exit::Unavailable, error));
    let report = match (probed, args.output) {
        // Programs get JSON also when no plugin answers.
        (Err(failure), Output::Json) => {
            let mut report = Report::new(&options);
            report.wrong(failure.to_string());
            report
        }
        (probed, _) => probed?,
    };
    let text = match args.output {
        Output::Text => report.text(),
        Output::Json => report.json(),
    };
    report::line(&text)?;
    match report.problem() {
        None => Ok(()),
        Some(problem) => Err(Failure::message(Exit::Unavailable, problem)),
    }
}

/// A bar for long runs, on a terminal only.
fn progress(count: u64) -> ProgressBar {
    let target = match count >= 1000 && std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} round trips, {per_sec}, {eta} left");
    ProgressBar::with_draw_target(Some(count), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
