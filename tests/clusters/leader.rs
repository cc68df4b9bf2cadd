//! A cluster that loses its leader.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::users::User;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader() {
    let began = Instant::now();
    let mut cluster = Cluster::start().await;
    println!("cluster started {:?}", began.elapsed());
    let user = User::start("three addresses", &cluster.config(&cluster.addresses())).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let leader = cluster.leader().await;
    let lost = Instant::now();
    cluster.members[leader].kill();
    let (_, back) = cluster.new_leader(&Cluster::others(leader)).await;
    cluster.restart(leader).await;
    cluster.settled().await;
    user.stop("leader killed -9", lost, back).await;
    println!("all {:?}", began.elapsed());
}
