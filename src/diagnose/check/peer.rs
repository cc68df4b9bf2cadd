//! Other nodes: all must announce the same key_id.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::finding::{Check, Finding};
use super::report::Report;
use super::web::{Web, WebError, parse};
use crate::admin::api_types::Status;
use crate::files;

/// Largest file with a node's status, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;
const WHY: &str = "data that one node writes must be readable on every other";

/// Why the status of a peer is not known.
#[derive(Debug, thiserror::Error)]
enum PeerError {
    #[error(transparent)]
    Web(WebError),
    #[error(transparent)]
    File(io::Error),
    #[error("it is not the output of `kms-plugin status --output json`")]
    NotStatus,
}

/// `peers` are addresses of admin APIs, or files with the output of `kms-plugin status --output json`.
pub(crate) async fn check(
    peers: &[String],
    own: Option<(&str, u32)>,
    web: &Web,
    time: Duration,
    report: &mut Report<'_>,
) {
    for peer in peers {
        let is_address = peer.contains("://");
        let status = match is_address {
            true => web.status(peer, time).await.map_err(PeerError::Web),
            false => file(peer),
        };
        report.add(match (status, own) {
            (Err(why), _) => {
                let remedy = match (&why, is_address) {
                    (PeerError::Web(WebError::NotAgent), _) => "name the admin address of an agent (server.admin), not the address of Vault or of the API server",
                    (_, true) => "by default the admin address is on loopback: run `kms-plugin status --output json > FILE` on that node, and name the file with --peer",
                    (_, false) => "run `kms-plugin status --output json > FILE` on that node, and name the file; an address begins with http://",
                };
                Finding::fail(Check::Peer, peer, why.to_string(), "the two nodes cannot be compared", remedy)
            }
            (Ok(_), None) => Finding::skipped(Check::Peer, peer, "the key_id of this node is not known"),
            (Ok(status), Some((own, version))) => compare(peer, &status, own, version),
        });
    }
}

fn compare(peer: &str, status: &Status, own: &str, version: u32) -> Finding {
    let Some(key) = &status.primary.key else {
        let remedy = "run on that node: kms-plugin check";
        return Finding::fail(Check::Peer, peer, "the agent there does not know its key yet", WHY, remedy);
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
            "each node sees a rotation within health.key_check_interval (60 s); a longer difference is a fault",
            "wait two minutes and run this check again; if the difference stays, run on the node with the lower version: kms-plugin check",
        );
    }
    let scope = &key.scope;
    Finding::fail(
        Check::Peer,
        peer,
        format!("{seen}; its key is {}/keys/{} in namespace {:?}", scope.mount, scope.key, scope.namespace),
        WHY,
        "compare namespace, mount, key, key_id_epoch and addresses of both nodes: kms-plugin config",
    )
}

fn file(path: &str) -> Result<Status, PeerError> {
    let text = files::read_argument(Path::new(path), MAX_FILE).map_err(PeerError::File)?;
    parse(&text).ok_or(PeerError::NotStatus)
}
