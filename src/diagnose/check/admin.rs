//! The admin address: free for the agent, or served by it.

use std::net::SocketAddr;
use std::time::Duration;

use super::agent::AgentView;
use super::finding::{Check, Finding};
use super::report::Report;
use super::web::Web;

pub(crate) async fn check(
    address: Option<SocketAddr>,
    agent: &AgentView,
    web: &Web,
    time: Duration,
    report: &mut Report<'_>,
) {
    let Some(address) = address else {
        report.add(Finding::skipped(Check::Admin, "", "server.admin is turned off"));
        return;
    };
    if agent.hangs() {
        report.add(Finding::skipped(Check::Admin, address.to_string(), "the agent does not answer"));
        return;
    }
    let taken = |seen: String| {
        Finding::fail(
            Check::Admin,
            address.to_string(),
            seen,
            "the agent does not start when another process uses its admin address",
            format!(
                "ss -ltnp 'sport = :{}' names the process; stop it, or choose another server.admin",
                address.port()
            ),
        )
    };
    let bound = tokio::net::TcpListener::bind(address).await;
    report.add(match (bound, agent.runs()) {
        (Ok(_), false) => Finding::ok(Check::Admin, address.to_string(), "free"),
        (Ok(_), true) => Finding::warn(
            Check::Admin,
            address.to_string(),
            "nothing listens there, while the agent runs",
            "probes and Prometheus get no answer",
            "the agent was started with another server.admin. A change takes effect at a restart: systemctl restart kms-plugin",
        ),
        (Err(cause), _) if cause.kind() != std::io::ErrorKind::AddrInUse => {
            taken(format!("cannot be bound: {cause}"))
        }
        (Err(_), _) => match web.status(&format!("http://{address}"), time).await {
            Ok(status) if agent.runs() && agent.key_id() == status.key_id() => {
                Finding::ok(Check::Admin, address.to_string(), "the agent serves it")
            }
            Ok(_) if !agent.runs() => Finding::warn(
                Check::Admin,
                address.to_string(),
                "an agent serves it, but this check cannot reach the agent's private socket",
                "without the agent's own status, this check tests less",
                "run the check as root, and with the agent's server.runtime_dir",
            ),
            Ok(_) => taken("another agent serves it".into()),
            Err(_) => taken("another program listens there".into()),
        },
    });
}
