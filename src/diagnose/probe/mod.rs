//! The engine of `probe`: calls any KMS v2 plugin as kube-apiserver does, checks every answer, and times the calls.

mod error;
mod measure;
mod result;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::kms::client::{self, ConnectError};

pub(crate) use measure::first_round_trip;
pub(crate) use result::Report;

/// What to probe.
pub(crate) struct ProbeOptions {
    pub(crate) socket: PathBuf,
    /// Round trips in all.
    pub(crate) count: u64,
    /// Round trips at the same time.
    pub(crate) concurrency: u64,
    /// Time for each call.
    pub(crate) timeout: Duration,
}

/// Probes a plugin. `on_round_trip` is called after each round trip, from any thread.
///
/// # Errors
/// When the plugin does not accept connections. Wrong answers are in the report.
pub(crate) async fn run(
    options: &ProbeOptions,
    on_round_trip: impl Fn() + Clone + Send + 'static,
) -> Result<Report, ConnectError> {
    let client = client::connect(&options.socket, options.timeout).await?;
    let mut report = Report::new(options);
    measure::status(&mut client.clone(), &mut report).await;
    if report.problem().is_some() {
        return Ok(report);
    }
    // Status and Encrypt on one connection must have the same key_id.
    if let Err(error) = first_round_trip(&mut client.clone()).await {
        report.wrong(error.to_string());
        return Ok(report);
    }
    let started = Instant::now();
    measure::round_trips(&client, options, on_round_trip, &mut report).await;
    report.elapsed = started.elapsed();
    Ok(report)
}
