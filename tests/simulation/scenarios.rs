//! Directed scenarios: each row of the table of misjudgements, with the figure that must hold at default intervals.

use std::time::Duration;

use tokio::time::sleep;

use super::model::effect::{Effect, Trouble};
use super::model::key::Key;
use super::model::service::{Service, now};
use super::node::Setup;
use super::run::Simulation;
use super::scenario::{at_most, check, hold, is_ready, is_refused, keks, with_local_keks};
use crate::health::ReasonKind;

/// Every right is lost.
const NO_RIGHT: Effect = Effect::RightsLost { encrypt: true, decrypt: true, read: true };

fn well(_: &mut Service) {}

fn first_is_disaster(service: &mut Service) {
    service.start(Effect::Disaster(Some(0)));
}

fn everywhere(trouble: Trouble) -> Effect {
    Effect::Path { node: None, replica: None, trouble }
}

/// Row 1: the first read of the key is refused, and granted 1.3 s later.
#[test]
fn a_first_read_that_is_refused_causes_no_loop() {
    let without_read = Effect::RightsLost { encrypt: false, decrypt: false, read: true };
    let first = [
        ("first read 403", without_read),
        ("first request 403", NO_RIGHT),
        ("first read 404", Effect::KeyDeleted),
    ];
    hold(first.map(|(name, effect)| {
        let prepare = |service: &mut Service| {
            service.start(effect);
        };
        check(name, Setup::default(), prepare, async |simulation: &mut Simulation| {
            sleep(Duration::from_millis(1300)).await;
            simulation.end(1);
            let since = now();
            sleep(Duration::from_secs(5)).await;
            at_most("requests in 5 s after the grant", simulation.requests(since).0, 60)?;
            simulation.call().await;
            simulation.within(6, "ready after a call", is_ready).await
        })
    }));
}

/// Row 2: answers 429 with `Retry-After: 3600`. A refusal that follows is seen all the same.
#[test]
fn a_long_retry_after_hides_nothing() {
    let throttled = async |simulation: &mut Simulation| {
        simulation.settle().await?;
        let throttled = simulation.begin(Effect::Throttled(Some(3600)));
        sleep(Duration::from_secs(100)).await;
        simulation.end(throttled);
        Ok::<(), String>(())
    };
    hold([
        check("Retry-After, then a refusal", with_local_keks(), well, async |simulation: &mut Simulation| {
            throttled(simulation).await?;
            simulation.begin(NO_RIGHT);
            simulation.within(90, "refused", is_refused).await?;
            simulation.within(35, "wiped", |snapshot| keks(snapshot) == 0).await
        }),
        check("Retry-After, then well", Setup::default(), well, async |simulation: &mut Simulation| {
            throttled(simulation).await?;
            simulation.within(35, "ready", is_ready).await
        }),
    ]);
}

/// Row 3: an address is, or becomes, a DR secondary.
#[test]
fn a_dr_secondary_is_an_outage() {
    hold([
        check("DR secondary", with_local_keks(), well, async |simulation: &mut Simulation| {
            simulation.settle().await?;
            let disaster = simulation.begin(Effect::Disaster(None));
            sleep(Duration::from_millis(200)).await;
            simulation.call().await;
            let rides_it_out = |snapshot: &_| !is_refused(snapshot) && keks(snapshot) > 0;
            simulation.stays(180, "an outage with local KEKs", rides_it_out).await?;
            simulation.end(disaster);
            // After a long outage, nodes return within six seconds.
            simulation.within(4 + 6, "ready", is_ready).await
        }),
        check("one DR secondary", Setup::default(), well, async |simulation: &mut Simulation| {
            simulation.settle().await?;
            simulation.begin(Effect::Disaster(Some(0)));
            simulation.stays(240, "ready at the other addresses", is_ready).await
        }),
        check(
            "DR secondary at the start",
            Setup::default(),
            first_is_disaster,
            async |simulation: &mut Simulation| {
                simulation.within(10, "ready at the other addresses", is_ready).await
            },
        ),
    ]);
}

/// Row 4: standbys in an election answer 474.
#[test]
fn an_election_is_no_proxy() {
    hold([check("election", Setup::default(), well, async |simulation: &mut Simulation| {
        simulation.settle().await?;
        let election = simulation.begin(Effect::NoLeader(now()));
        simulation.call().await;
        sleep(Duration::from_secs(120)).await;
        let shown =
            format!("{:?} {:?}", simulation.snapshot().reason, simulation.snapshot().primary.addresses);
        if shown.contains("in Vault's form") || shown.contains("proxy") {
            return Err(format!("it blames a proxy: {shown}"));
        }
        simulation.end(election);
        simulation.within(4, "ready", is_ready).await
    })]);
}

/// Row 4: the node was removed from its cluster (530).
#[test]
fn a_removed_node_is_no_proxy() {
    let setup = Setup { addresses: 1, ..Setup::default() };
    hold([check("removed node", setup, well, async |simulation: &mut Simulation| {
        simulation.settle().await?;
        let removed = simulation.begin(Effect::Removed(None));
        simulation.call().await;
        sleep(Duration::from_secs(60)).await;
        let shown =
            format!("{:?} {:?}", simulation.snapshot().reason, simulation.snapshot().primary.addresses);
        if shown.contains("Vault's form") || shown.contains("proxy") || !shown.contains("removed") {
            return Err(format!("it does not say that the node was removed: {shown}"));
        }
        simulation.end(removed);
        simulation.within(4, "ready", is_ready).await
    })]);
}

/// Row 5: Vault hangs, is sealed, or is gone, and nobody calls.
#[test]
fn an_idle_agent_sees_an_outage_in_15_seconds() {
    let outages = [
        ("idle, hang", everywhere(Trouble::Hang)),
        ("idle, kill", everywhere(Trouble::Reset)),
        ("idle, seal", Effect::Sealed(None)),
    ];
    hold(outages.map(|(name, effect)| {
        check(name, Setup::default(), well, async |simulation: &mut Simulation| {
            simulation.settle().await?;
            let effect = simulation.begin(effect);
            simulation.within(15, "degraded", |snapshot| !is_ready(snapshot)).await?;
            sleep(Duration::from_secs(45)).await;
            simulation.end(effect);
            simulation.within(4, "ready", is_ready).await
        })
    }));
}

/// Row 6: the key is deleted, and restored.
#[test]
fn a_deleted_key_shows_and_a_restored_key_serves() {
    hold([
        check("key deleted, a call", Setup::default(), well, async |simulation: &mut Simulation| {
            simulation.settle().await?;
            simulation.begin(Effect::KeyDeleted);
            simulation.call().await;
            simulation.within(10, "refused after the first refused call", is_refused).await
        }),
        check("key deleted, local KEKs", with_local_keks(), well, async |simulation: &mut Simulation| {
            simulation.settle().await?;
            simulation.begin(Effect::KeyDeleted);
            simulation.within(90, "refused without a call", is_refused).await?;
            simulation.within(35, "wiped", |snapshot| keks(snapshot) == 0).await
        }),
        check("key deleted for 3 s", Setup::default(), well, async |simulation: &mut Simulation| {
            simulation.settle().await?;
            let deleted = simulation.begin(Effect::KeyDeleted);
            simulation.call().await;
            sleep(Duration::from_secs(3)).await;
            simulation.end(deleted);
            simulation.wraps_within(6).await
        }),
        check("key deleted for a minute", Setup::default(), well, async |simulation: &mut Simulation| {
            simulation.settle().await?;
            let deleted = simulation.begin(Effect::KeyDeleted);
            simulation.call().await;
            sleep(Duration::from_secs(60)).await;
            simulation.end(deleted);
            simulation.wraps_within(6).await?;
            simulation.within(6, "ready after the call", is_ready).await
        }),
    ]);
}

/// Row 7: the right or the key comes back, with and without a call.
#[test]
fn a_restored_right_serves_again() {
    let waits = [40, 55, 70, 85, 100];
    hold([
        check("right restored, a call", Setup::default(), well, async |simulation: &mut Simulation| {
            for wait in waits {
                simulation.settle().await?;
                let lost = simulation.begin(NO_RIGHT);
                simulation.call().await;
                simulation.within(10, "refused", is_refused).await?;
                sleep(Duration::from_secs(wait)).await;
                simulation.end(lost);
                simulation.call().await;
                simulation.within(6, "ready after the call", is_ready).await?;
            }
            Ok(())
        }),
        check("right restored, idle", Setup::default(), well, async |simulation: &mut Simulation| {
            for wait in waits {
                simulation.settle().await?;
                let lost = simulation.begin(NO_RIGHT);
                simulation.within(90, "refused without a call", is_refused).await?;
                sleep(Duration::from_secs(wait)).await;
                simulation.end(lost);
                simulation.within(30, "ready", is_ready).await?;
            }
            Ok(())
        }),
    ]);
}

/// Row 8: a wrong secret-id at boot is confirmed soon, so that READY need not wait.
#[test]
fn a_wrong_secret_id_at_boot_is_confirmed_in_10_seconds() {
    let wrong = |service: &mut Service| service.role.secret_id = "another".into();
    hold([check("wrong secret-id at boot", Setup::default(), wrong, async |simulation: &mut Simulation| {
        simulation.within(10, "refused", is_refused).await?;
        let kind = simulation.snapshot().reason.as_ref().map(|reason| reason.kind);
        match kind {
            Some(ReasonKind::CredentialsRefused) => Ok(()),
            kind => Err(format!("the reason is {kind:?}")),
        }
    })]);
}

/// Row 9: local KEKs, and the key is deleted and made again.
#[test]
fn no_local_kek_is_made_for_a_rejected_key() {
    hold([check(
        "key made again, local KEKs",
        with_local_keks(),
        well,
        async |simulation: &mut Simulation| {
            simulation.settle().await?;
            let key = {
                let mut service = simulation.world.service.lock().unwrap();
                let mut key = Key::new(service.make_version());
                key.rotate(service.make_version());
                key
            };
            let before = keks(&simulation.snapshot());
            simulation.begin(Effect::Replaced(key));
            let replaced = |kind| kind == ReasonKind::KeyReplaced;
            simulation
                .within(70, "failed", |snapshot| {
                    snapshot.reason.as_ref().is_some_and(|reason| replaced(reason.kind))
                })
                .await?;
            let now = keks(&simulation.snapshot());
            if now > before {
                return Err(format!("{now} local KEKs, {before} before the rejection"));
            }
            sleep(Duration::from_secs(4000)).await;
            match keks(&simulation.snapshot()) {
                now if now > before => Err(format!("{now} local KEKs, {before} before the rejection")),
                _ => Ok(()),
            }
        },
    )]);
}

/// A gateway that blocks `sys/health` is neither an outage nor a refusal.
#[test]
fn a_gateway_that_blocks_sys_health_is_no_fault() {
    hold([check("sys/health blocked", Setup::default(), well, async |simulation: &mut Simulation| {
        simulation.settle().await?;
        simulation.begin(everywhere(Trouble::NoHealth(403)));
        simulation.stays(240, "ready", is_ready).await?;
        let hang = simulation.begin(everywhere(Trouble::Hang));
        sleep(Duration::from_secs(120)).await;
        simulation.end(hang);
        simulation.within(10, "ready after an outage", is_ready).await
    })]);
}
