//! What the directed scenarios share: a simulation of one node, steps and figures, and the comparison with the table
//! of those that fail yet.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::model::effect::Effect;
use super::model::service::{Flavour, Service};
use super::model::tokens::Role;
use super::node::Setup;
use super::run::{Simulation, in_simulated_time};
use crate::health::{Announce, Phase, Snapshot};

/// What a scenario found: an error says which figure does not hold.
pub(super) type Found = Result<(), String>;

/// How often a state is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Runs a scenario with a service that `prepare` has changed before the agent's start. Returns why it fails, unless
/// it is in the table of those that fail yet. It must fail then: an entry that is not needed any more is noticed.
pub(super) fn check(
    name: &str,
    setup: Setup,
    prepare: impl FnOnce(&mut Service),
    scenario: impl AsyncFnOnce(&mut Simulation) -> Found,
) -> Option<String> {
    let found = in_simulated_time(1, async {
        let mut service = service();
        service.addresses = setup.addresses;
        prepare(&mut service);
        let mut simulation = Simulation::start(1, &setup, service).await;
        let found = scenario(&mut simulation).await;
        for node in &mut simulation.nodes {
            node.power_off().await;
        }
        found.map_err(|text| (text, simulation.world.log.last(40)))
    });
    found.err().map(|(text, log)| format!("{name}: {text}\n{log}"))
}

/// Fails with all that `check` returned.
#[track_caller]
pub(super) fn hold(checks: impl IntoIterator<Item = Option<String>>) {
    let failures: Vec<String> = checks.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

pub(super) fn service() -> Service {
    let role = Role::new(Duration::from_secs(3600), Duration::from_secs(86_400));
    Service::new(Flavour::Vault, Duration::from_millis(50), role)
}

pub(super) fn with_local_keks() -> Setup {
    Setup { max_offline: Some(Duration::from_secs(3600)), ..Setup::default() }
}

impl Simulation {
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.nodes[0].agent.as_ref().unwrap().snapshot()
    }

    pub(super) fn begin(&self, effect: Effect) -> u64 {
        self.world.log.add(format_args!("START {effect:?}"));
        self.world.service.lock().unwrap().start(effect)
    }

    pub(super) fn end(&self, effect: u64) {
        self.world.log.add("END");
        self.world.service.lock().unwrap().end(effect);
    }

    /// Lets it run until it is well and idle: some minutes after the start.
    pub(super) async fn settle(&self) -> Found {
        self.within(20, "ready", |snapshot| snapshot.phase == Phase::Ready).await?;
        sleep(Duration::from_secs(200)).await;
        match self.snapshot().phase {
            Phase::Ready => Ok(()),
            _ => Err(format!("not well before the scenario: {}", self.snapshot().line())),
        }
    }

    /// Waits until the snapshot is as wanted; an error after `seconds`.
    pub(super) async fn within(&self, seconds: u64, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Found {
        let began = Instant::now();
        while began.elapsed() <= Duration::from_secs(seconds) {
            if wanted(&self.snapshot()) {
                return Ok(());
            }
            sleep(LOOK).await;
        }
        Err(format!("not {what} within {seconds} s: {}", self.snapshot().line()))
    }

    /// The snapshot stays as wanted for this time.
    pub(super) async fn stays(&self, seconds: u64, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Found {
        let began = Instant::now();
        while began.elapsed() <= Duration::from_secs(seconds) {
            if !wanted(&self.snapshot()) {
                let line = self.snapshot().line();
                return Err(format!("not {what} for {seconds} s, but {:?}: {line}", began.elapsed()));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Requests since `since`: all, and those in the audit log.
    pub(super) fn requests(&self, since: Duration) -> (usize, usize) {
        let service = self.world.service.lock().unwrap();
        let recent = || service.requests.iter().filter(|sent| sent.at >= since);
        (recent().count(), recent().filter(|sent| sent.audited).count())
    }

    /// Requests for the health of the service since `since`: without a login, and not audited.
    pub(super) fn health_requests(&self, since: Duration) -> usize {
        let service = self.world.service.lock().unwrap();
        service.requests.iter().filter(|sent| sent.at >= since && sent.operation == "health").count()
    }

    /// A new API server makes a seed within this time.
    pub(super) async fn wraps_within(&mut self, seconds: u64) -> Found {
        let before = self.world.storage.lock().unwrap().len();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(seconds) {
            self.call().await;
            if self.world.storage.lock().unwrap().len() > before {
                return Ok(());
            }
        }
        Err(format!("no seed was wrapped within {seconds} s: {}", self.snapshot().line()))
    }

    /// Encrypts like a new seed of the API server.
    pub(super) async fn call(&mut self) {
        self.nodes[0].start_api_server().await;
        sleep(Duration::from_millis(700)).await;
    }
}

pub(super) fn at_most(what: &str, count: usize, most: usize) -> Found {
    if count > most { Err(format!("{count} {what}, at most {most} are allowed")) } else { Ok(()) }
}

pub(super) fn is_ready(snapshot: &Snapshot) -> bool {
    snapshot.phase == Phase::Ready
}

pub(super) fn is_refused(snapshot: &Snapshot) -> bool {
    snapshot.announce == Announce::Refused
}

pub(super) fn keks(snapshot: &Snapshot) -> usize {
    snapshot.local_keks.as_ref().map_or(0, |keks| keks.keks)
}
