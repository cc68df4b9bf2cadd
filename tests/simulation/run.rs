//! Runs one simulation: starts the nodes, starts and ends the faults at their times, and lets the oracle watch each
//! second.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use tracing::subscriber::DefaultGuard;

use super::agent::Agent;
use super::chance::Chance;
use super::fault::{Fault, Kind, Started};
use super::model::service::{KEY, OLD_KEY, Service, now};
use super::model::tokens::Role;
use super::node::{Node, Setup};
use super::oracle::{Oracle, Rule, Violation, describe};
use super::schedule::Schedule;
use super::watch::Watch;
use super::world::{Stored, World};
use crate::clock::simulated;
use crate::health::{Phase, Reason, ReasonKind, Snapshot};
use crate::key_service::{KeyScope, key_id};
use crate::retry;

/// The step of the oracle.
const STEP: Duration = Duration::from_secs(1);
/// Ready after the end of all faults.
const READY: Duration = Duration::from_secs(10);
/// An API server has read what was stored longer ago.
const READABLE: Duration = Duration::from_secs(2);
/// A simulation with more requests is not worth its time.
const RUNAWAY: usize = 30_000;
/// How long the simulation goes on after the last fault: until every node has seen a rotation.
const QUIET: Duration = Duration::from_secs(95);

/// What came of one seed.
pub(super) struct Outcome {
    pub seed: u64,
    pub hash: u64,
    pub violations: Vec<Violation>,
    pub failure: Option<String>,
    /// The whole event log.
    pub log: String,
    pub last: String,
    pub faults: Vec<Fault>,
    pub window: Duration,
}

/// A simulation that is under way.
pub(super) struct Simulation {
    pub world: Arc<World>,
    pub nodes: Vec<Node>,
    watches: Vec<Watch>,
    pub start: Instant,
    _journal: DefaultGuard,
}

impl Simulation {
    /// Starts every node with an agent and an API server. Call it in a paused runtime.
    pub(super) async fn start(seed: u64, setup: &Setup, service: Service) -> Self {
        let service = Arc::new(Mutex::new(service));
        let world = Arc::new(World::new(seed, service, Oracle::default()));
        let journal = world.journal.open();
        if setup.decrypt_only {
            store_old_seed(&world);
        }
        let services = if setup.decrypt_only { 2.0 } else { 1.0 };
        let mut nodes: Vec<Node> = (0..setup.nodes).map(|number| Node::new(number, setup, &world)).collect();
        let mut chance = Chance::new(seed ^ 7);
        for node in &mut nodes {
            node.start_agent();
            tokio::time::sleep(chance.time(1..=900)).await;
            node.start_api_server().await;
        }
        let watches = (0..setup.nodes).map(|node| Watch::new(node, services)).collect();
        Self { world, nodes, watches, start: Instant::now(), _journal: journal }
    }

    /// Lets time pass, and watches each second. False when a rule is broken.
    pub(super) async fn pass(&mut self, until: Instant) -> bool {
        loop {
            let next = (Instant::now() + STEP).min(until);
            tokio::time::sleep_until(next).await;
            for (watch, node) in self.watches.iter_mut().zip(&mut self.nodes) {
                watch.step(&self.world, node);
            }
            let asked = self.nodes.iter().filter(|node| node.asked);
            asked.filter_map(|node| node.agent.as_ref()).for_each(Agent::ask);
            self.judge_wipes();
            let runs_away = self.world.service.lock().unwrap().requests.len() > RUNAWAY;
            if runs_away {
                self.world.oracle.violated(Rule::Budget, format!("more than {RUNAWAY} requests"));
            }
            if runs_away || self.world.oracle.failure().is_some() {
                return false;
            }
            if next >= until {
                return true;
            }
        }
    }

    /// Until when the agents wait since a server asked them to (`Retry-After`).
    fn paused_until(&self) -> Instant {
        let left = self.world.service.lock().unwrap().pause.saturating_sub(now());
        Instant::now() + left
    }

    /// Local KEKs are wiped "not reached" only where an agent had no contact for so long.
    fn judge_wipes(&mut self) {
        let out_of_reach =
            self.watches.iter_mut().zip(&self.nodes).map(|(watch, node)| watch.out_of_reach(node));
        // Each watch remembers the step: all are asked.
        let anyone = out_of_reach.filter(|one| *one).count() > 0;
        for message in self.world.journal.take() {
            if message.contains("was not reached") && !anyone {
                self.world
                    .oracle
                    .violated(Rule::TrueCause, format!("every agent had a contact, and: {message}"));
            }
        }
    }

    fn suspended(&mut self) {
        self.watches.iter_mut().for_each(Watch::suspended);
        self.world.oracle.suspended();
    }

    async fn faults(&mut self, schedule: &Schedule) {
        let mut ends: Vec<(Fault, Started)> = Vec::new();
        let mut starts = schedule.faults.iter().copied().peekable();
        loop {
            ends.sort_by_key(|(fault, _)| std::cmp::Reverse(fault.end));
            let start = starts.peek().map(|fault| fault.start);
            let end = ends.last().map(|(fault, _)| fault.end);
            let Some(next) = start.into_iter().chain(end).min() else { break };
            if !self.pass(self.start + next).await {
                return;
            }
            if Some(next) == end
                && let Some((fault, started)) = ends.pop()
            {
                self.world.log.add(format_args!("END {:?}", fault.kind));
                fault.end(started, &self.world, &mut self.nodes).await;
                if ends.is_empty() {
                    *self.world.clean_since.lock().unwrap() = Some(now());
                }
            } else if let Some(fault) = starts.next() {
                self.world.log.add(format_args!("START {fault:?}"));
                *self.world.clean_since.lock().unwrap() = None;
                let started = fault.start(&self.world, &mut self.nodes).await;
                if fault.kind == Kind::Suspended {
                    self.suspended();
                }
                ends.push((fault, started));
            }
        }
    }

    /// Each agent is ready, unless its state is excused.
    fn judge_ready(&self, when: &str, is_excused: impl Fn(&Snapshot) -> bool) {
        for node in &self.nodes {
            let Some(agent) = &node.agent else { continue };
            let snapshot = agent.snapshot();
            if snapshot.phase != Phase::Ready && !is_excused(&snapshot) {
                let text = format!("agent {}: {when}: {}", node.number, snapshot.line());
                self.world.oracle.violated(Rule::ReadyAgain, text);
            }
        }
    }

    /// After the last fault: administrators accept a key that stays another one; then all must be well.
    async fn quiet(&mut self) {
        self.world.log.add("QUIET");
        self.world.service.lock().unwrap().restore_created();
        let calm = Instant::now();
        // A refusal may show as long as no call disproves it: each API server reads once.
        for node in &self.nodes {
            node.read_again();
        }
        let ready = calm.max(self.paused_until()) + READY + self.world.oracle.rollback_unconfirmed();
        while Instant::now() < ready {
            if !self.pass(ready.min(Instant::now() + STEP)).await {
                return;
            }
            for agent in self.nodes.iter().filter_map(|node| node.agent.as_ref()) {
                // An administrator tries it at once, and again where a node needs it.
                agent.accept(calm.elapsed() > STEP * 2).await;
            }
        }
        if !self.pass(Instant::now() + STEP).await {
            return;
        }
        // Where a key may be used and not read, only the next read shows that it may be read again.
        let unreadable = |reason: &Reason| reason.kind == ReasonKind::KeyUnreadable;
        self.judge_ready("10 s after the last fault", |snapshot| {
            snapshot.phase == Phase::Degraded && snapshot.reason.as_ref().is_some_and(unreadable)
        });
        // A rotation that every node can see.
        self.world.log.add("ROTATE");
        self.world.service.lock().unwrap().rotate();
        // Some see only now that the key is another one, and their administrators accept it.
        for end in [calm + QUIET - READY, calm + QUIET] {
            if !self.pass(end).await {
                return;
            }
            for agent in self.nodes.iter().filter_map(|node| node.agent.as_ref()) {
                agent.accept(true).await;
            }
        }
        self.judge_ready("at the end", |_| false);
        for (node, unread) in self.nodes.iter().map(|node| (node, node.unread(READABLE))) {
            if let Some(number) = unread {
                let text = format!("API server {}: {} cannot be read", node.number, self.world.shown(number));
                self.world.oracle.violated(Rule::ReadableAgain, text);
            }
        }
    }

    async fn finish(mut self, seed: u64, faults: &[Fault]) -> Outcome {
        let failure = self.world.oracle.failure().map(|(_, text)| text);
        for node in &mut self.nodes {
            node.power_off().await;
        }
        let oracle = &self.world.oracle;
        Outcome {
            seed,
            hash: self.world.log.hash(),
            violations: oracle.take(),
            failure,
            log: self.world.log.last(usize::MAX),
            last: self.world.log.last(40),
            faults: faults.to_vec(),
            window: *oracle.longest_window.lock().unwrap(),
        }
    }
}

/// Runs `work` with paused clocks that follow from `seed`.
pub(super) fn in_simulated_time<T>(seed: u64, work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        simulated::start();
        retry::simulated::start(seed);
        work.await
    })
}

/// Runs the simulation of a seed from its start to its end.
pub(super) fn run(seed: u64) -> Outcome {
    in_simulated_time(seed, async {
        let schedule = Schedule::of(seed);
        let role = Role::new(schedule.token_ttl, schedule.token_max_ttl);
        let mut service = Service::new(schedule.flavour, schedule.usual_lag, role);
        service.may_create = schedule.may_create;
        let mut simulation = Simulation::start(seed, &schedule.setup, service).await;
        simulation.world.log.add(format_args!("{:?} {:?}", schedule.flavour, schedule.setup));
        simulation.faults(&schedule).await;
        let ended = Instant::now();
        if simulation.world.oracle.failure().is_none() && simulation.pass(ended + schedule.gap).await {
            simulation.quiet().await;
        }
        simulation.finish(seed, &schedule.faults).await
    })
}

/// A seed that was written when the second key was the primary's.
fn store_old_seed(world: &World) {
    let (key, seed) = (world.service.lock().unwrap().old_key.clone(), vec![7; 32]);
    let scope = KeyScope { namespace: String::new(), mount: "transit".into(), key: OLD_KEY.into() };
    assert_ne!(KEY, OLD_KEY);
    let (version, made) = key.versions.first_key_value().unwrap();
    world.store(Stored {
        number: 0,
        at: now(),
        ciphertext: key.encrypt_seed(&seed),
        key_id: key_id::derive(&scope, *version, made.created, 0),
        annotations: std::collections::HashMap::new(),
        seed,
        material: made.material,
    });
}

/// The violations of an outcome, a line each.
pub(super) fn shown(outcome: &Outcome) -> String {
    outcome.violations.iter().map(|violation| describe(violation) + "\n").collect()
}
