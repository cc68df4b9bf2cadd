//! The network to each address: DNS, TCP, TLS, and the state of the server.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UnixStream};

use super::certificate;
use super::finding::{Check, Finding};
use super::report::Report;
use crate::clock::{Deadline, unix_seconds};
use crate::config::vault::Vault;
use crate::vault::{Inspector, SysHealth, Target, namespace_warning};

const WHY: &str = "the agent cannot use this address";
/// The section about namespaces in docs/troubleshooting.md.
pub(super) const NAMESPACE_SECTION: &str = "the-server-ignores-the-namespace";
/// When the clocks differ by more than this number of seconds, certificates and tokens look invalid.
const SKEW: i64 = 60;

/// Checks every address. Returns whether the agent can use one of them.
pub(crate) async fn check(
    vault: &Vault,
    inspector: &Inspector,
    time: Duration,
    report: &mut Report<'_>,
) -> bool {
    let mut clusters: Vec<(String, String)> = Vec::new();
    let (mut usable, mut count) = (false, 0);
    for (index, target) in inspector.targets().into_iter().enumerate() {
        count += 1;
        let Some(way) = way(&target, time, report).await else { continue };
        let Way::Direct(address) = way else {
            usable |= state(vault, (index, &target), inspector, time, &mut clusters, report).await;
            continue;
        };
        if let Some(name) = &target.tls_name {
            let handshake = inspector.handshake(address, name, Deadline::after(time)).await;
            if !certificate::check(vault, &target, handshake, report) {
                continue;
            }
        } else {
            report.add(Finding::skipped(Check::Tls, &target.name, "plain HTTP, as configured"));
        }
        usable |= state(vault, (index, &target), inspector, time, &mut clusters, report).await;
    }
    if count > 1 {
        same_cluster(&clusters, report);
    }
    usable
}

/// How an address is reached.
enum Way {
    Direct(SocketAddr),
    /// Through a unix socket or a forward proxy: what is behind is seen only in the answer.
    Behind,
}

/// Checks the way to the address; `None` when it is blocked.
async fn way(target: &Target, time: Duration, report: &mut Report<'_>) -> Option<Way> {
    if let Some(path) = &target.socket {
        return socket(target, path, time, report).await.then_some(Way::Behind);
    }
    let Some(proxy) = &target.proxy else {
        return reach(target, time, report).await.map(Way::Direct);
    };
    let of_proxy = Target {
        name: format!("{} (vault.proxy)", proxy.name()),
        host: proxy.url.host_str().unwrap_or_default().to_owned(),
        port: proxy.url.port_or_known_default().unwrap_or_default(),
        tls_name: None,
        proxy: None,
        socket: None,
    };
    reach(&of_proxy, time, report).await?;
    let because = "through the proxy: the next line says whether it works";
    report.add(Finding::skipped(Check::Tls, &target.name, because));
    Some(Way::Behind)
}

/// Connects to a unix socket. Returns whether it works.
async fn socket(target: &Target, path: &Path, time: Duration, report: &mut Report<'_>) -> bool {
    let why = match tokio::time::timeout(time, UnixStream::connect(path)).await {
        Ok(Ok(_)) => {
            report.add(Finding::ok(Check::Tcp, &target.name, "connects"));
            return true;
        }
        Ok(Err(cause)) => cause.to_string(),
        Err(_) => format!("did not answer within {time:?}"),
    };
    let remedy = format!(
        "start the proxy that listens there, and let the agent's user connect: ls -l {}",
        path.display()
    );
    report.add(Finding::fail(Check::Tcp, &target.name, why, WHY, remedy));
    false
}

/// Asks the server for its state. Returns whether the agent can use it.
async fn state(
    vault: &Vault,
    (index, target): (usize, &Target),
    inspector: &Inspector,
    time: Duration,
    clusters: &mut Vec<(String, String)>,
    report: &mut Report<'_>,
) -> bool {
    let (health, now) = (inspector.health(index, Deadline::after(time)).await, unix_seconds());
    match health {
        Ok(health) => {
            if let Some(id) = health.cluster_id.clone() {
                clusters.push((target.name.clone(), id));
            }
            let is_usable = server(&target.name, &health, now, report);
            if is_usable {
                namespace(vault, inspector, (index, target), &health, time, report).await;
            }
            is_usable
        }
        Err(error) => {
            let remedy = error.remedy().to_owned();
            report.add(Finding::fail(Check::Server, &target.name, error.to_string(), WHY, remedy));
            false
        }
    }
}

/// Checks DNS and TCP. Returns an address that accepts connections.
async fn reach(target: &Target, time: Duration, report: &mut Report<'_>) -> Option<SocketAddr> {
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
                format!("getent ahosts {host} must print an address: check /etc/resolv.conf and the name in vault.addresses"),
            ));
            return None;
        }
        Err(_) => {
            report.add(Finding::fail(
                Check::Dns,
                &target.name,
                format!("the name {host} was not resolved within {time:?}"),
                WHY,
                "check the name servers in /etc/resolv.conf: one of them does not answer",
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
    report: &mut Report<'_>,
) -> Option<SocketAddr> {
    let mut last = ("the name has no address".to_owned(), false);
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
            Ok(Err(cause)) => {
                last = (format!("{address}: {cause}"), cause.kind() == ErrorKind::ConnectionRefused);
            }
            Err(_) => last = (format!("{address} did not answer within {time:?}"), false),
        }
    }
    let (seen, refused) = last;
    let remedy = match refused {
        true => "nothing listens there: start Vault, or correct the port in vault.addresses",
        false => "check the firewall between this node and Vault, and the route: ip route get ADDRESS",
    };
    report.add(Finding::fail(Check::Tcp, &target.name, seen, WHY, remedy));
    None
}

/// The state of the server. Returns whether the agent can use it.
fn server(name: &str, health: &SysHealth, now: i64, report: &mut Report<'_>) -> bool {
    let version = format!("version {}", health.version);
    let fail = |seen: String, remedy: &str| Finding::fail(Check::Server, name, seen, WHY, remedy);
    if !health.initialized {
        let remedy = "it has no data: join it to its cluster (vault operator raft join), restore a snapshot, or correct vault.addresses. Initialise it only if it is a new Vault without keys";
        report.add(fail(format!("{version}, not initialised"), remedy));
        return false;
    }
    if health.sealed {
        report.add(fail(format!("{version}, sealed"), "unseal it: vault operator unseal"));
        return false;
    }
    let skew = health.server_time_utc.map_or(0, |server| server.saturating_sub(now));
    let role = if health.standby { "standby" } else { "active" };
    report.add(match skew.saturating_abs() {
        0..=SKEW => Finding::ok(Check::Server, name, format!("{version}, {role}, not sealed")),
        _ => Finding::warn(
            Check::Server,
            name,
            format!("{version}, {role}; its clock differs by {skew:+} s from this node's"),
            "a wrong clock makes certificates and tokens invalid",
            "synchronise both clocks with NTP: chronyc tracking, timedatectl",
        ),
    });
    true
}

/// A server without namespaces ignores a configured one in silence.
async fn namespace(
    vault: &Vault,
    inspector: &Inspector,
    (index, target): (usize, &Target),
    health: &SysHealth,
    time: Duration,
    report: &mut Report<'_>,
) {
    let Some(warning) = namespace_warning(vault) else { return };
    if inspector.has_namespaces(index, health, Deadline::after(time)).await == Some(false) {
        let why = "nodes with and without the setting announce different key_ids, and cannot read each other's data";
        let failed = Finding::fail(Check::Server, &target.name, warning.text, why, warning.remedy);
        report.add(failed.at(NAMESPACE_SECTION));
    }
}

/// All addresses must belong to one cluster: another cluster has other keys.
fn same_cluster(clusters: &[(String, String)], report: &mut Report<'_>) {
    let Some((_, first)) = clusters.first() else { return };
    for (name, id) in clusters {
        if id != first {
            report.add(Finding::fail(
                Check::Cluster,
                name,
                format!("belongs to cluster {id}, the first address to {first}"),
                "another cluster has other keys: it cannot unwrap what this one wrapped",
                "keep only the addresses of one cluster in vault.addresses",
            ));
        }
    }
}
