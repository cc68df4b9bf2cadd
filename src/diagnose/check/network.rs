//! The way to each address: its name, a connection, TLS, and what the server says of itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::certificate;
use super::finding::{Check, Finding};
use super::report::Report;
use crate::clock::{Deadline, unix_seconds};
use crate::config::vault::Vault;
use crate::vault::{Inspector, SysHealth, Target};

const WHY: &str = "the agent cannot use this address";
/// Difference of the clocks from which certificates and tokens are judged wrongly.
const SKEW: i64 = 60;

/// Looks at every address. Whether one of them is a server that can be used.
pub(crate) async fn check(vault: &Vault, inspector: &Inspector, time: Duration, report: &mut Report) -> bool {
    let mut clusters: Vec<(String, String)> = Vec::new();
    let (mut usable, mut several) = (false, 0);
    for (index, target) in inspector.targets().into_iter().enumerate() {
        several += 1;
        let Some(address) = reach(&target, time, report).await else { continue };
        if let Some(name) = &target.tls_name {
            let shaken = inspector.handshake(address, name, Deadline::after(time)).await;
            if !certificate::judge(vault, &target, shaken, report) {
                continue;
            }
        } else {
            report.add(Finding::skipped(Check::Tls, &target.name, "plain HTTP, as configured"));
        }
        let (health, asked) = (inspector.health(index, Deadline::after(time)).await, unix_seconds());
        match health {
            Ok(health) => {
                if let Some(id) = health.cluster_id.clone() {
                    clusters.push((target.name.clone(), id));
                }
                usable |= server(&target.name, &health, asked, report);
            }
            Err(error) => report.add(Finding::fail(
                Check::Server,
                &target.name,
                error.to_string(),
                WHY,
                error.remedy().to_owned(),
            )),
        }
    }
    if several > 1 {
        same_cluster(&clusters, report);
    }
    usable
}

/// DNS and TCP: an address that takes connections.
async fn reach(target: &Target, time: Duration, report: &mut Report) -> Option<SocketAddr> {
    let deadline = Deadline::after(time);
    let host = target.host.trim_matches(['[', ']']).to_owned();
    let is_name = host.parse::<std::net::IpAddr>().is_err();
    let looked_up = tokio::net::lookup_host((host.clone(), target.port));
    let found: Vec<SocketAddr> = match tokio::time::timeout_at(deadline.instant(), looked_up).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(cause)) => {
            report.add(Finding::fail(
                Check::Dns,
                &target.name,
                format!("the name {host} cannot be resolved: {cause}"),
                WHY,
                format!("getent ahosts {host} must show an address: look at /etc/resolv.conf and at the name in vault.addresses"),
            ));
            return None;
        }
        Err(_) => {
            report.add(Finding::fail(
                Check::Dns,
                &target.name,
                format!("the name {host} was not resolved within {time:?}"),
                WHY,
                "look at the name servers in /etc/resolv.conf: one of them does not answer",
            ));
            return None;
        }
    };
    if is_name {
        let shown: Vec<String> = found.iter().map(|address| address.ip().to_string()).collect();
        report.add(Finding::ok(Check::Dns, &target.name, shown.join(", ")));
    }
    connect(target, &found, time, report).await
}

async fn connect(
    target: &Target,
    found: &[SocketAddr],
    time: Duration,
    report: &mut Report,
) -> Option<SocketAddr> {
    let mut last = "the name has no address".to_owned();
    for address in found {
        let started = Instant::now();
        match tokio::time::timeout(time, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                let took = started.elapsed();
                report.add(Finding::ok(
                    Check::Tcp,
                    &target.name,
                    format!("{address} connects in {took:.1?}"),
                ));
                return Some(*address);
            }
            Ok(Err(cause)) => last = format!("{address}: {cause}"),
            Err(_) => last = format!("{address} did not answer within {time:?}"),
        }
    }
    let remedy = match last.contains("refused") {
        true => "nothing listens there: start Vault, or correct the port in vault.addresses",
        false => "look for a firewall between this node and Vault, and for a route: ip route get ADDRESS",
    };
    report.add(Finding::fail(Check::Tcp, &target.name, last, WHY, remedy));
    None
}

/// What the server says of itself; whether it can be used.
fn server(name: &str, health: &SysHealth, asked: i64, report: &mut Report) -> bool {
    let version = format!("version {}", health.version);
    let fail = |seen: String, remedy: &str| Finding::fail(Check::Server, name, seen, WHY, remedy);
    if !health.initialized {
        let remedy = "it has no data: join it to its cluster (vault operator raft join) or restore a snapshot, or correct vault.addresses; initialise it only when it is a new Vault, without any key";
        report.add(fail(format!("{version}, not initialised"), remedy));
        return false;
    }
    if health.sealed {
        report.add(fail(format!("{version}, sealed"), "unseal it: vault operator unseal"));
        return false;
    }
    let skew = health.server_time_utc.map_or(0, |server| server - asked);
    let role = if health.standby { "standby" } else { "active" };
    report.add(match skew.abs() {
        0..=SKEW => Finding::ok(Check::Server, name, format!("{version}, {role}, not sealed")),
        _ => Finding::warn(
            Check::Server,
            name,
            format!("{version}, {role}; its clock is {skew:+} s from this node's"),
            "certificates and tokens are judged by the clock",
            "set both clocks by NTP: chronyc tracking, timedatectl",
        ),
    });
    true
}

/// All addresses must be of one cluster: the others have other keys.
fn same_cluster(clusters: &[(String, String)], report: &mut Report) {
    let Some((_, first)) = clusters.first() else { return };
    for (name, id) in clusters {
        if id != first {
            report.add(Finding::fail(
                Check::Cluster,
                name,
                format!("belongs to cluster {id}, the first address to {first}"),
                "another cluster has other keys: data wrapped there cannot be read here",
                "leave only the addresses of one cluster in vault.addresses",
            ));
        }
    }
}
