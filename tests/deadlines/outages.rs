//! The server hangs, is sealed, or is killed: when `/healthz` says so, asked each second, and when STATUS does, while
//! nobody asks; and when both are good again.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;
use tokio::time::{interval, sleep};

use crate::figures::Figures;
use crate::node::{Node, until};
use crate::support::vault::Vault;
use crate::tenant::Tenant;

const HEALTHZ_SAYS_SO: Duration = Duration::from_secs(7);
const STATUS_SAYS_SO: Duration = Duration::from_secs(15);
const BACK: Duration = Duration::from_secs(2);

#[derive(Clone, Copy)]
enum Fault {
    Hangs,
    Sealed,
    Killed,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Hangs => "Vault hangs",
            Self::Sealed => "Vault is sealed",
            Self::Killed => "Vault is killed",
        }
    }

    async fn begin(self, vault: &mut Vault) {
        match self {
            Self::Hangs => vault.freeze(),
            Self::Sealed => vault.seal().await,
            Self::Killed => vault.kill(),
        }
    }

    /// Ends the fault, and returns when the server itself says that it is well.
    async fn end(self, vault: &mut Vault) -> Instant {
        match self {
            Self::Hangs => vault.thaw(),
            Self::Sealed => vault.unseal().await,
            Self::Killed => vault.restart().await,
        }
        let quickly = Duration::from_millis(500);
        until("the server is well", Instant::now(), Duration::from_millis(10), async || {
            matches!(vault.try_request(Method::GET, "sys/health", Value::Null, quickly).await, Ok((200, _)))
        })
        .await;
        Instant::now()
    }
}

/// When `/healthz` answers with `code`.
async fn healthz_is(node: &Node, code: u16, pause: Duration) -> Instant {
    let mut tick = interval(pause);
    loop {
        tick.tick().await;
        if node.healthz().await == code {
            return Instant::now();
        }
    }
}

#[test]
fn an_outage_is_seen_and_so_is_its_end() {
    let figures = Figures::default();
    figures.run(async |number| {
        let mut vault = Vault::persistent().await;
        let tenant = Tenant::new(&vault, "kms").await;
        let config = tenant.config(&[&vault.address]);
        let (asked, idle) = (Node::ready(&config).await, Node::ready(&config).await);
        for fault in [Fault::Hangs, Fault::Sealed, Fault::Killed] {
            outage(&figures, number, &mut vault, fault, &asked, &idle).await;
        }
    });
    figures.finish();
}

async fn outage(
    figures: &Figures,
    number: usize,
    vault: &mut Vault,
    fault: Fault,
    asked: &Node,
    idle: &Node,
) {
    // The tries meet the agent at different moments: a health look comes every 10 s.
    let moment = Duration::from_millis(2000 + 1100 * number as u64);
    let (healthz, (began, status)) = tokio::join!(healthz_is(asked, 503, Duration::from_secs(1)), async {
        sleep(moment).await;
        idle.notified.drain();
        let began = Instant::now();
        fault.begin(vault).await;
        idle.notified.next("STATUS=degraded").await;
        (began, Instant::now())
    });
    let what = |words: &str| format!("{}: {words}", fault.name());
    figures.time(&what("/healthz is 503, asked each second"), HEALTHZ_SAYS_SO, healthz - began);
    figures.time(&what("STATUS, nobody asks"), STATUS_SAYS_SO, status - began);
    // By then the agent asks as seldom as it ever does in an outage.
    sleep(Duration::from_millis(3000 + 150 * number as u64)).await;
    idle.notified.drain();
    let back = fault.end(vault).await;
    // More often than each second: only the agent's own time is measured. A fresh answer is not asked for again.
    let (healthz, status) = tokio::join!(healthz_is(asked, 200, Duration::from_millis(50)), async {
        idle.notified.next("STATUS=ready").await;
        Instant::now()
    });
    figures.time(&what("back, /healthz is 200"), BACK, healthz.saturating_duration_since(back));
    figures.time(&what("back, STATUS"), BACK, status.saturating_duration_since(back));
}
