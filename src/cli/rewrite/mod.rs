//! `rewrite`: parses the command line, checks that the time is right, rewrites, lets etcd prove it, prints the result.

mod args;
mod display;
mod proof;
mod target;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub(super) use args::{RewriteArgs, nodes};

use self::display::Display;
use self::target::Target;
use super::block_on;
use super::exit::{Exit, Failure};
use super::report::{self as output, Output};
use crate::cluster::{Connection, Resource, cluster_id, resolve};
use crate::rewrite::{self, Checkpoint, Pace, Proof, Report, Verdict};

/// Prints the report. The exit code is the verdict.
pub(super) fn run(args: &RewriteArgs) -> Result<Exit, Failure> {
    let display = Display::new();
    let (report, verification) = block_on(rewrite(args, &display))??;
    display.clear();
    output::line(&match args.output {
        Output::Text => report.text(),
        Output::Json => report.json(verification),
    })?;
    Ok(match report.verdict() {
        Verdict::Proven | Verdict::Planned => Exit::Ok,
        Verdict::NotProven => Exit::Unproven,
        Verdict::Left => Exit::Warned,
        Verdict::NotBegun => Exit::Failed,
    })
}

async fn rewrite(
    args: &RewriteArgs,
    display: &Display,
) -> Result<(Report, Option<serde_json::Value>), Failure> {
    let nodes = args.nodes().await?;
    let target = Target::of(args, &nodes)?;
    let mut report = Report { target: target.text.clone(), dry_run: args.dry_run, ..Report::default() };
    if let Some(why) = target.not_yet(&nodes) {
        report.not_begun = Some(why);
        return Ok((report, None));
    }
    let connection = args.cluster.connection().await?;
    let resources = resources(&connection, &target, args).await?;
    if let Some(why) = ready(args, &connection, &target, &resources, &mut report, display).await? {
        report.not_begun = Some(why);
        return Ok((report, None));
    }
    if let Some(why) = proof::nothing_would_change(args, &target, &nodes).await {
        report.not_begun = Some(why);
        return Ok((report, None));
    }
    let cluster = cluster_id(&connection).await.unwrap_or_default();
    let mut checkpoint = Checkpoint::open(args.state().as_deref(), &cluster, &target.id);
    let pace = Pace::new(args.concurrency, args.max_rate());
    let tallies = Mutex::default();
    let started = Instant::now();
    let options = args.options();
    let ended = tokio::select! {
        ended = rewrite::run(&connection, &resources, &options, &pace, &mut checkpoint, display, &tallies) => {
            ended.map_err(|stop| stop.to_string())
        }
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    };
    report.stopped = ended.err();
    report.resources = std::mem::take(&mut tallies.lock().unwrap_or_else(PoisonError::into_inner));
    report.seconds = started.elapsed().as_secs();
    if args.dry_run {
        report.estimate = args.max_rate().map(|rate| report.planned().div_ceil(u64::from(rate)));
        return Ok((report, None));
    }
    // Who rotates and begins at once may be faster than the agent, which looks once a minute.
    let later = args.nodes().await.ok().and_then(|nodes| target.not_yet(&nodes));
    if let (None, Some(later)) = (&report.stopped, later) {
        report.stopped = Some(format!("the nodes have changed meanwhile: {later}"));
    }
    let mut verification = None;
    if report.stopped.is_none() {
        display.step("etcd is read");
        let (proof, json) = proof::of(args, &target, &nodes).await;
        report.proof = Some(proof);
        verification = json;
    }
    Ok((report, verification))
}

/// The resources, with a path for each.
async fn resources(
    connection: &Connection,
    target: &Target,
    args: &RewriteArgs,
) -> Result<Vec<Resource>, Failure> {
    let resolved = resolve(connection, &target.names).await;
    let resolved = resolved.map_err(|error| {
        Failure::new(Exit::Unavailable, error)
            .context(format!("{} does not say what it serves", connection.address()))
    })?;
    // The file of an API server names resources of others, and those of operators that are not installed.
    if resolved.resources.is_empty() || (args.named() && !resolved.missing.is_empty()) {
        let missing = resolved.missing.join(", ");
        return Err(Failure::message(
            Exit::Usage,
            format!("the API servers serve no such resource that can be listed and patched: {missing}"),
        ));
    }
    Ok(resolved.resources)
}

/// Why nothing may be written yet. What each API server reports is in the report.
async fn ready(
    args: &RewriteArgs,
    connection: &Connection,
    target: &Target,
    resources: &[Resource],
    report: &mut Report,
    display: &Display,
) -> Result<Option<String>, Failure> {
    if args.unchecked {
        return Ok(None);
    }
    let aggregated: Vec<String> =
        resources.iter().filter(|resource| resource.aggregated).map(Resource::name).collect();
    if !aggregated.is_empty() {
        return Ok(Some(format!(
            "another API server serves {}, and whether it has the new key_id cannot be asked: wait three minutes after kms-plugin nodes shows the key_id on every node, and use --unchecked; etcd proves the result",
            aggregated.join(", ")
        )));
    }
    let servers = args.cluster.servers(connection).await?;
    display.step("the API servers are asked whether they have the new key");
    let longest = if args.dry_run { Duration::ZERO } else { args.wait };
    report.servers = rewrite::wait(&servers, &target.expectation, longest, display).await;
    let waiting = report.servers.iter().find(|server| server.problem.is_some());
    Ok(waiting.map(|server| {
        let problem = server.problem.as_deref().unwrap_or_default();
        format!(
            "{} {problem}. An object that is written now would stay as it is, without an error",
            server.address
        )
    }))
}

/// Proof of a result that etcd does not give.
fn no_proof(why: impl Into<String>) -> (Proof, Option<serde_json::Value>) {
    (Proof::None(why.into()), None)
}
