//! The nodes of a fleet, three in a cluster of Kubernetes. All clusters use one key service.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::curve::Curve;
use crate::agent::simulation::chance::Chance;
use crate::agent::simulation::log::Log;
use crate::agent::simulation::model::service::{Flavour, Service, now};
use crate::agent::simulation::model::tokens::Role;
use crate::agent::simulation::node::{Node, Setup};
use crate::agent::simulation::oracle::Oracle;
use crate::agent::simulation::world::World;
use crate::health::Phase;

/// API servers that share their storage.
const NODES_IN_A_CLUSTER: usize = 3;
/// The longest time that a request may take. Its answer says whether it was audited.
const LONGEST_REQUEST: Duration = Duration::from_secs(20);
/// An API server has read what was stored longer ago.
const READABLE: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_secs(1);

pub(super) struct Fleet {
    pub service: Arc<Mutex<Service>>,
    pub nodes: Vec<Node>,
    pub curve: Curve,
    chance: Chance,
}

impl Fleet {
    /// A fleet of nodes that are off.
    pub(super) fn new(nodes: usize, ttl: Duration, curve: Curve) -> Self {
        let role = Role::new(ttl, ttl * 24);
        let service = Service::new(Flavour::Vault, Duration::from_millis(50), role);
        let service = Arc::new(Mutex::new(service));
        let mut clusters = Vec::new();
        let nodes = (0..nodes).map(|number| {
            let cluster = number / NODES_IN_A_CLUSTER;
            if cluster == clusters.len() {
                let world = World::new(1 + cluster as u64, service.clone(), Oracle::default());
                // An API server makes a seed when it starts and after a rotation.
                clusters.push(Arc::new(World { log: Log::off(), further_seeds: 0, ..world }));
            }
            Node::new(number, &Setup::default(), &clusters[cluster])
        });
        let nodes = nodes.collect();
        Self { service, nodes, curve, chance: Chance::new(7) }
    }

    /// Boots the first `count` nodes, each at its own moment within `over`: first the agent, soon after it the API server.
    pub(super) async fn boot(&mut self, count: usize, over: Duration) {
        let span = u64::try_from(over.as_millis()).unwrap();
        let mut steps = Vec::new();
        for node in 0..count {
            let agent = Instant::now() + self.chance.time(0..=span);
            steps.push((agent, node, false));
            steps.push((agent + self.chance.time(100..=900), node, true));
        }
        steps.sort();
        for (at, node, api_server) in steps {
            self.pass_until(at).await;
            match api_server {
                true => self.nodes[node].start_api_server().await,
                false => self.nodes[node].start_agent(),
            }
        }
    }

    /// Lets time pass, and counts.
    pub(super) async fn pass(&mut self, time: Duration) {
        self.pass_until(Instant::now() + time).await;
    }

    async fn pass_until(&mut self, until: Instant) {
        while Instant::now() < until {
            sleep_until(until.min(Instant::now() + STEP)).await;
            self.count(LONGEST_REQUEST);
        }
    }

    fn count(&mut self, before: Duration) {
        let taken = self.service.lock().unwrap().take_requests(now().saturating_sub(before));
        self.curve.add(&taken);
    }

    /// Every agent is ready, and every API server has read every seed. Then all are turned off.
    pub(super) async fn end(mut self) -> Curve {
        for node in &self.nodes {
            let snapshot = node.agent.as_ref().expect("a node is off").snapshot();
            assert_eq!(snapshot.phase, Phase::Ready, "node {}: {}", node.number, snapshot.line());
            assert_eq!(node.unread(READABLE), None, "node {} cannot read a seed", node.number);
        }
        for node in &mut self.nodes {
            node.power_off().await;
        }
        sleep(LONGEST_REQUEST * 2).await;
        self.count(LONGEST_REQUEST);
        self.curve
    }
}
