//! A cluster that loses its leader and gets another one.

use std::time::{Duration, Instant};

use crate::balancer::Balancer;
use crate::cluster::Cluster;
use crate::network::Lost;
use crate::users::{Outage, on_all_routes, stop};
use crate::watch::Watch;

/// How long the fault lasts after another member leads.
const HOLD: Duration = Duration::from_secs(5);

/// How the leader is lost.
#[derive(Clone, Copy)]
enum Loss {
    Killed,
    /// The process stands still, and its kernel still accepts connections.
    Frozen,
    SteppedDown,
    CutOff,
    /// Its packets to the other members are lost.
    Mute,
    /// The packets of the other members to it are lost.
    Deaf,
}

impl Loss {
    fn name(self) -> &'static str {
        match self {
            Self::Killed => "leader killed -9",
            Self::Frozen => "leader frozen",
            Self::SteppedDown => "leader stepped down",
            Self::CutOff => "leader cut off",
            Self::Mute => "leader cut off, one way: from it",
            Self::Deaf => "leader cut off, one way: to it",
        }
    }

    async fn begin(self, cluster: &mut Cluster, leader: usize) {
        match self {
            Self::Killed => cluster.members[leader].kill(),
            Self::Frozen => cluster.members[leader].freeze(),
            Self::SteppedDown => cluster.step_down(leader).await,
            Self::CutOff => cluster.network.cut(leader),
            Self::Mute => cluster.network.part(leader, Lost::FromIt),
            Self::Deaf => cluster.network.part(leader, Lost::ToIt),
        }
    }

    async fn end(self, cluster: &mut Cluster, leader: usize) {
        match self {
            Self::Killed => cluster.restart(leader).await,
            Self::Frozen => cluster.members[leader].thaw(),
            Self::SteppedDown => {}
            Self::CutOff => cluster.network.mend(leader),
            Self::Mute | Self::Deaf => cluster.network.join(leader),
        }
    }
}

async fn lose(loss: Loss) {
    let mut cluster = Cluster::start().await;
    let balancer = Balancer::start(&cluster).await;
    let users = on_all_routes(&cluster, &balancer).await;
    let leader = cluster.leader().await;
    let lost = Instant::now();
    loss.begin(&mut cluster, leader).await;
    let (_, back) = cluster.new_leader(&Cluster::others(leader)).await;
    // The return of a member can cost another election: then, and only then, calls may fail again.
    let watch = Watch::start(&cluster);
    tokio::time::sleep(HOLD).await;
    loss.end(&mut cluster, leader).await;
    cluster.settled().await;
    let outages = [vec![Outage { lost, back }], watch.stop().await].concat();
    for outcome in stop(users, loss.name(), &outages).await {
        outcome.in_time();
        outcome.same_key();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed() {
    lose(Loss::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen() {
    lose(Loss::Frozen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stepped_down() {
    lose(Loss::SteppedDown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off() {
    lose(Loss::CutOff).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_from_it() {
    lose(Loss::Mute).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_to_it() {
    lose(Loss::Deaf).await;
}
