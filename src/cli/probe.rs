//! `probe`: calls any KMS v2 plugin as kube-apiserver does, checks every answer, and times the calls.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::exit::{Exit, Failure};
use super::report::{self, Output};
use super::runtime;
use crate::diagnose::probe::measure::{self, first_round_trip};
use crate::diagnose::probe::result::Report;
use crate::kms::client;

/// Most round trips of one run: their times are kept for the percentiles.
const MAX_COUNT: u64 = 1_000_000;

/// Call a KMS v2 plugin as kube-apiserver does, and time it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each round trip is an Encrypt of 32 random bytes and a Decrypt that must give them back.\n\
                        Works with any KMS v2 plugin. Exit code 0 only when every answer was right."
)]
pub(super) struct ProbeArgs {
    /// Socket of the plugin; unix:// is accepted in front
    #[arg(long, value_name = "PATH", default_value = "/run/kmsplugin/kms.sock")]
    socket: String,
    /// Round trips in all
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=MAX_COUNT))]
    count: u64,
    /// Round trips at once
    #[arg(long, value_name = "C", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    concurrency: u64,
    /// Time for each call, as in EncryptionConfiguration
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// How to write the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(super) fn run(args: &ProbeArgs) -> Result<(), Failure> {
    if args.timeout.is_zero() {
        return Err(Failure::message(Exit::Usage, "--timeout must be longer than zero"));
    }
    let report = match (runtime()?.block_on(probe(args)), args.output) {
        // Programs get their JSON also when nobody answers.
        (Err(failure), Output::Json) => {
            let mut report = Report::new(&client::socket_path(&args.socket), args.count, args.concurrency);
            report.wrong(failure.to_string());
            report
        }
        (result, _) => result?,
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

async fn probe(args: &ProbeArgs) -> Result<Report, Failure> {
    let path = client::socket_path(&args.socket);
    let client =
        client::connect(&path, args.timeout).await.map_err(|error| Failure::new(Exit::Unavailable, error))?;
    let mut report = Report::new(&path, args.count, args.concurrency);
    measure::status(&mut client.clone(), &mut report).await;
    if report.problem().is_some() {
        return Ok(report);
    }
    // Once with Status on the same connection: the two must name the same key.
    if let Err(error) = first_round_trip(&mut client.clone()).await {
        report.wrong(error);
        return Ok(report);
    }
    let bar = progress(args.count);
    let started = Instant::now();
    measure::round_trips(&client, args.count, args.concurrency, &bar, &mut report).await;
    report.elapsed = started.elapsed();
    bar.finish_and_clear();
    Ok(report)
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
