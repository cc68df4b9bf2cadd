//! Agreement with other nodes: all must announce the same key_id.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::finding::{Check, Finding};
use super::report::Report;
use super::web::Web;
use crate::admin::types::Status;
use crate::files;

/// Largest file with a node's status, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;
const WHY: &str = "data that one node writes must be readable on every other";

/// `peers` are base addresses of admin APIs, or files with what `kms-plugin status --output json` wrote there.
pub(crate) async fn check(
    peers: &[String],
    own: Option<(&str, u32)>,
    web: &Web,
    time: Duration,
    report: &mut Report,
) {
    for peer in peers {
        let status = if peer.contains("://") { web.status(peer, time).await } else { file(peer) };
        report.add(match (status, own) {
            (Err(why), _) => {
                let remedy = match peer.contains("://") {
                    true => "the admin address is on loopback by default: run `kms-plugin status --output json` there, and name the file with --peer",
                    false => "run `kms-plugin status --output json > FILE` on that node, and name the file; an address begins with http://",
                };
                Finding::fail(Check::Peer, peer, why, "whether that node agrees is not known", remedy)
            }
            (Ok(_), None) => Finding::skipped(Check::Peer, peer, "this node's own key_id is not known"),
            (Ok(status), Some((own, version))) => compare(peer, &status, own, version),
        });
    }
}

fn compare(peer: &str, status: &Status, own: &str, version: u32) -> Finding {
    let Some(key) = &status.primary.key else {
        let remedy = "look at that node: kms-plugin check";
        return Finding::fail(Check::Peer, peer, "it knows no key yet", WHY, remedy);
    };
    if key.key_id == own {
        return Finding::ok(Check::Peer, peer, format!("the same key_id, version {}", key.version));
    }
    let seen = format!("key_id {}, version {}; here {own}", key.key_id, key.version);
    if key.version != version {
        return Finding::warn(
            Check::Peer,
            peer,
            seen,
            "a rotation is seen by each node within health.key_check_interval (60 s); longer than that is wrong",
            "wait two minutes and look again; then look at the node with the lower version: kms-plugin check",
        );
    }
    let scope = &key.scope;
    Finding::fail(
        Check::Peer,
        peer,
        format!("{seen}; its key is {}/keys/{} in namespace {:?}", scope.mount, scope.key, scope.namespace),
        WHY,
        "compare namespace, mount, key, key_id_epoch and addresses of both: kms-plugin config",
    )
}

fn file(path: &str) -> Result<Status, String> {
    let text = files::read(Path::new(path), MAX_FILE).map_err(|error| error.to_string())?;
    parse(&text).ok_or_else(|| "not what `kms-plugin status --output json` writes".into())
}

/// A status of an agent; `None` when it is something else. Every agent says its version and its phase.
pub(crate) fn parse(text: &[u8]) -> Option<Status> {
    #[derive(Deserialize)]
    struct Always {
        #[serde(rename = "phase")]
        _phase: IgnoredAny,
    }
    serde_json::from_slice::<Always>(text).ok()?;
    serde_json::from_slice(text).ok()
}
