//! Agreement with other nodes: all must announce the same key_id.

use std::time::Duration;

use serde_json::Value;

use super::finding::{Check, Finding};
use super::report::Report;
use super::web::Web;

/// Largest file with a node's status, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;
const WHY: &str = "data that one node writes must be readable on every other";

/// `peers` are base addresses of admin APIs, or files with what `kms-plugin status --output json` wrote there.
pub(super) async fn check(
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
            (Ok(status), _) if status.get("phase").is_none() => Finding::fail(
                Check::Peer,
                peer,
                "its answer is not that of an agent",
                "whether that node agrees is not known",
                "name the admin address of an agent (server.admin), not that of Vault or of the API server",
            ),
            (Ok(_), None) => Finding::skipped(Check::Peer, peer, "this node's own key_id is not known"),
            (Ok(status), Some((own, version))) => compare(peer, &status, own, version),
        });
    }
}

fn compare(peer: &str, status: &Value, own: &str, version: u32) -> Finding {
    let key = status.pointer("/primary/key");
    let text = |name: &str| key?.get(name)?.as_str();
    let Some(theirs) = text("key_id") else {
        let remedy = "look at that node: kms-plugin check";
        return Finding::fail(Check::Peer, peer, "it knows no key yet", WHY, remedy);
    };
    let other = key.and_then(|key| key.get("version")).and_then(Value::as_u64);
    if theirs == own {
        return Finding::ok(
            Check::Peer,
            peer,
            format!("the same key_id, version {}", other.unwrap_or_default()),
        );
    }
    let seen = format!("key_id {theirs}, version {}; here {own}", other.unwrap_or_default());
    if other != Some(u64::from(version)) {
        return Finding::warn(
            Check::Peer,
            peer,
            seen,
            "a rotation is seen by each node within health.key_check_interval (60 s); longer than that is wrong",
            "wait two minutes and look again; then look at the node with the lower version: kms-plugin check",
        );
    }
    let place =
        |name: &str| key.and_then(|key| key.pointer(&format!("/scope/{name}"))?.as_str()).unwrap_or_default();
    let [namespace, mount, name] = ["namespace", "mount", "key"].map(place);
    Finding::fail(
        Check::Peer,
        peer,
        format!("{seen}; its key is {mount}/keys/{name} in namespace {namespace:?}"),
        WHY,
        "compare namespace, mount, key, key_id_epoch and addresses of both: kms-plugin config",
    )
}

fn file(path: &str) -> Result<Value, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > MAX_FILE {
        return Err("the file is larger than 4 MiB".into());
    }
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|_| "not what `kms-plugin status --output json` writes".into())
}
