//! What etcd says: before the run whether anything would change, and after it whether everything did.

use super::args::RewriteArgs;
use super::no_proof;
use super::target::Target;
use crate::cli::verify_etcd::storage_failure;
use crate::diagnose::verify_etcd::{self, Configuration, Options, Progress, Questions, Selection, Source};
use crate::etcd::group::State;
use crate::etcd::key;
use crate::etcd::value::Mode;
use crate::rewrite::Proof;
use crate::rewrite::fleet::Node;

/// How many objects that are left are named.
const LIST: usize = 20;

/// The proof, and the report of `verify-etcd` for programs.
pub(super) async fn of(
    args: &RewriteArgs,
    target: &Target,
    nodes: &[Node],
) -> (Proof, Option<serde_json::Value>) {
    let report = match read(args, target, nodes).await {
        Ok(report) => report,
        Err(why) => return no_proof(why),
    };
    let json = serde_json::from_str(&report.json()).ok();
    let named: String =
        report.tally.list().iter().map(|name| format!("\n  {}", verify_etcd::printable(name))).collect();
    let proof = match report.finished() {
        Some(true) => Proof::Finished(report.verdict()),
        Some(false) => Proof::Left(format!("{}{named}", report.verdict())),
        None => Proof::None(report.verdict()),
    };
    (proof, json)
}

/// Why a run would change nothing: local KEKs are on, and objects under the current key_id are wrapped by the key service
/// itself. They are not stale for the API servers.
pub(super) async fn nothing_would_change(
    args: &RewriteArgs,
    target: &Target,
    nodes: &[Node],
) -> Option<String> {
    let suspected = Target::local_keks_without_rotation(nodes)?;
    if !args.endpoint.is_given() {
        return Some(suspected);
    }
    let report = match read(args, target, nodes).await {
        Ok(report) => report,
        Err(why) => return Some(format!("{suspected}; etcd does not show it: {why}")),
    };
    let stuck = report
        .tally
        .groups()
        .iter()
        .filter(|(group, _)| group.state == State::Current && group.mode == Some(Mode::Direct))
        .map(|(_, count)| count)
        .sum::<u64>();
    (stuck > 0).then(|| {
        format!(
            "local KEKs are on, and {stuck} objects of the current key_id are wrapped by Vault itself: the API servers would leave them as they are. Rotate the key first (vault write -f transit/keys/NAME/rotate)"
        )
    })
}

async fn read(args: &RewriteArgs, target: &Target, nodes: &[Node]) -> Result<verify_etcd::Report, String> {
    if !args.endpoint.is_given() {
        return Err("no --endpoint of etcd is given".into());
    }
    let failed = |error| format!("{:#}", storage_failure(error).into_error()).replace('\n', "; ");
    let endpoints = args.endpoint.endpoints().map_err(|failure| failure.to_string())?;
    let configurations = match &args.encryption_config {
        Some(file) => vec![Configuration::read(file).map_err(failed)?],
        None => Vec::new(),
    };
    let selection = match configurations.is_empty() {
        false => Selection::Configurations,
        true => {
            let prefixes = target.names.iter().map(|name| {
                key::prefixes_of(name, &args.etcd_prefix)
                    .ok_or_else(|| format!("where {name} lies in etcd is not known"))
            });
            Selection::Prefixes(prefixes.collect::<Result<Vec<_>, _>>()?.concat())
        }
    };
    // The agent of this node knows the names of older versions; its key_id is the target's, which was checked before.
    let here = nodes.iter().any(|node| node.status.key_id() == target.expectation.key_id.as_deref());
    let options = Options {
        root: args.etcd_prefix.clone(),
        current_key_id: target.expectation.key_id.clone().filter(|_| !here || args.key_id.is_some()),
        provider: args.provider.clone(),
        list: LIST,
        offline: false,
        configurations,
        questions: Questions::default(),
        complete: false,
    };
    let source: Source<std::io::Empty> = Source::Etcd(endpoints, selection);
    verify_etcd::verify(source, &options, &args.agent(), &mut Silent).await.map_err(failed)
}

struct Silent;

impl Progress for Silent {
    fn expect(&mut self, _: u64) {}

    fn object(&mut self) {}
}
