//! When READY is sent, and what a first read that is refused costs.

use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use crate::audit::audited;
use crate::figures::Figures;
use crate::node::{Node, PAUSE, until};
use crate::support::agent::LOCAL_KEK;
use crate::support::vault::{Vault, policy};
use crate::tenant::Tenant;

/// How much later than promised READY may come on a busy machine.
const SLOW_MACHINE: Duration = Duration::from_secs(4);
const AT_ONCE: Duration = SLOW_MACHINE;
/// `health.ready_timeout`.
const AWAY: Duration = SLOW_MACHINE.saturating_add(Duration::from_secs(10));
/// The confirmation of a refusal takes 5 s.
const REFUSED: Duration = SLOW_MACHINE.saturating_add(Duration::from_secs(5));

#[test]
fn ready_is_sent_when_the_verdict_is_in() {
    let figures = Figures::default();
    figures.run(async |number| {
        let vault = Vault::start().await;
        let wrong = Tenant::new(&vault, "wrong").await;
        wrong.spoil_secret_id();
        let right = Tenant::new(&vault, "right").await;
        let direct = right.config(&[&vault.address]);
        let local = direct.clone() + LOCAL_KEK;
        let fresh = || tempfile::tempdir().unwrap();
        // One after the other on this machine, as on ten machines.
        sleep(Duration::from_millis(700 * number as u64)).await;

        let (_node, took) = Node::start(fresh(), &direct).await;
        figures.time("READY: Vault is well", AT_ONCE, took);
        let (node, took) = Node::start(fresh(), &wrong.config(&[&vault.address])).await;
        figures.time("READY: a wrong secret-id", REFUSED, took);
        assert_eq!(node.agent.status().unwrap()["phase"], "failed");

        let (before, before_local) = (Node::ready(&direct).await, Node::ready(&local).await);
        let (saved, saved_local) = (before.agent.kill(), before_local.agent.kill());
        vault.freeze();
        let ((mut node, took), (mut node_local, took_local), (_, took_away)) = tokio::join!(
            Node::start(saved, &direct),
            Node::start(saved_local, &local),
            Node::start(fresh(), &direct),
        );
        assert!(node.is_ok().await && node_local.is_ok().await);
        figures.time("READY: Vault is away, saved identity", AT_ONCE, took);
        figures.time("READY: Vault is away, saved identity, local KEKs", AT_ONCE, took_local);
        figures.time("READY: Vault is away, nothing saved", AWAY, took_away);
    });
    figures.finish();
}

#[test]
fn a_first_read_that_is_refused_makes_no_loop() {
    const WINDOW: u64 = 40;
    let figures = Figures::default();
    figures.run(async |_| {
        let vault = Vault::start().await;
        let tenant = Tenant::new(&vault, "kms").await;
        tenant.allow(&vault, "path \"auth/token/lookup-self\" { capabilities = [\"read\"] }").await;
        let started = Instant::now();
        let config = tenant.config(&[&vault.address]);
        let starting = Node::start(tempfile::tempdir().unwrap(), &config);
        let ((mut node, _), granted) = tokio::join!(starting, async {
            // From the refused read: a busy machine takes a second to start the agent.
            until("a read of the key", started, Duration::from_millis(20), async || {
                audited(&vault, "kms").iter().any(|(path, _)| path == "transit/keys/kms")
            })
            .await;
            sleep(Duration::from_millis(1300)).await;
            tenant.allow(&vault, &policy("transit", "kms")).await;
            Instant::now()
        });
        let ok = until("ok", granted, PAUSE, async || node.is_ok().await).await;
        figures.time("first read refused, allowed 1.3 s later: ok", Duration::from_secs(30), ok);
        sleep_until((started + Duration::from_secs(WINDOW)).into()).await;
        let asked = audited(&vault, "kms").len();
        // The burst and the rate of the background, then those of the reserve.
        let allowed = 20 + WINDOW + 10 + WINDOW / 6;
        figures.number(
            "first read refused, allowed 1.3 s later: requests in 40 s",
            Some(allowed as f64),
            asked as f64,
        );
    });
    figures.finish();
}
