//! The key is rotated, and nobody calls: when a node announces the new version.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use crate::figures::Figures;
use crate::node::{Node, PAUSE, until};
use crate::support::vault::Vault;
use crate::tenant::Tenant;

/// `key_check_interval`, and a second for the read, and for how often this test asks.
const ANNOUNCED: Duration = Duration::from_secs(61);

#[test]
fn a_rotation_is_announced_without_a_call() {
    let figures = Figures::default();
    figures.run(async |number| {
        let vault = Vault::start().await;
        for local in [false, true] {
            let tenant = Tenant::new(&vault, if local { "local" } else { "direct" }).await;
            let config = tenant.config(&[&vault.address]);
            let config = if local { config + "[local_kek]\nenabled = true\n" } else { config };
            let mut node = Node::ready(&config).await;
            // The tries meet the agent at different moments of its interval.
            sleep(Duration::from_millis(1000 + 6000 * number as u64)).await;
            let before = node.kms.status().await.unwrap().key_id;
            vault.post(&format!("transit/keys/{}/rotate", tenant.name), json!({})).await;
            let rotated = Instant::now();
            let took = until("the new version", rotated, PAUSE, async || {
                node.kms.status().await.unwrap().key_id != before
            })
            .await;
            let what = if local { "rotation, local KEKs: announced" } else { "rotation, direct: announced" };
            figures.time(what, ANNOUNCED, took);
        }
    });
    figures.finish();
}
