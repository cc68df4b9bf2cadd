//! A lost right, a deleted key: when KMS Status says so, when local KEKs are wiped, and when Status is ok again.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::sleep;
use tonic::Status;

use crate::figures::Figures;
use crate::node::{Node, PAUSE, until};
use crate::support::agent::LOCAL_KEK;
use crate::support::kms::{Kms, SEED};
use crate::support::proxy::{Mode, Proxy};
use crate::support::vault::Vault;
use crate::tenant::{Loss, Tenant};

/// What shows the fault, and its end, to the agent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// A call.
    Call,
    /// A call, and one of two configured addresses hangs.
    CallWhileOneHangs,
    /// Only its own looks.
    NoCall,
}

impl Shown {
    fn name(self) -> &'static str {
        match self {
            Self::Call => "a call",
            Self::CallWhileOneHangs => "a call, one of two addresses hangs",
            Self::NoCall => "no call",
        }
    }

    /// From the first refused call, or from the fault, until Status is not ok.
    fn seen_within(self) -> Duration {
        Duration::from_secs(match self {
            Self::Call => 10,
            Self::CallWhileOneHangs => 15,
            Self::NoCall => 90,
        })
    }

    /// From the next call, or from the end of the fault, until Status is ok.
    fn over_within(self) -> Duration {
        Duration::from_secs(if self == Self::NoCall { 30 } else { 6 })
    }
}

/// From the refusal until the local KEKs are wiped.
const WIPED: Duration = Duration::from_secs(90);
/// How long a fault lasts: by then the agent looks at a refusal as seldom as it ever does.
const LASTS: Duration = Duration::from_secs(45);

#[test]
fn a_refused_call_shows_the_refusal() {
    refusals(Shown::Call);
}

#[test]
fn a_refused_call_shows_the_refusal_while_an_address_hangs() {
    refusals(Shown::CallWhileOneHangs);
}

#[test]
fn a_refusal_is_seen_without_a_call() {
    refusals(Shown::NoCall);
}

fn refusals(shown: Shown) {
    let (figures, losses) = (Figures::default(), Loss::all());
    figures.run(async |number| {
        let vault = Vault::start().await;
        let modes = losses.iter().flat_map(|loss| [(*loss, false), (*loss, true)]);
        join_all(modes.map(|(loss, local)| refusal(&figures, number, &vault, (loss, local, shown)))).await;
    });
    figures.finish();
}

/// One agent that loses something, and gets it back.
async fn refusal(figures: &Figures, number: usize, vault: &Vault, (loss, local, shown): (Loss, bool, Shown)) {
    let mode = if local { "local KEKs" } else { "direct" };
    let tenant = Tenant::new(vault, &format!("{}-{mode}", loss.name()).replace(' ', "-")).await;
    let hanging = Proxy::before(&vault.address).await;
    let addresses: &[&str] = match shown {
        Shown::CallWhileOneHangs if number.is_multiple_of(2) => &[&hanging.address, &vault.address],
        Shown::CallWhileOneHangs => &[&vault.address, &hanging.address],
        _ => &[&vault.address],
    };
    let config = tenant.config(addresses) + if local { LOCAL_KEK } else { "" };
    let seed = tenant.seed(vault).await;
    let mut node = Node::ready(&config).await;
    let written = node.kms.encrypt(&SEED).await.unwrap();
    assert_eq!(written.ciphertext.starts_with(b"local-kek:"), local, "{written:?}");
    let call = Call { kms: node.kms.clone(), seed: local.then_some(seed) };
    // The tries meet the agent at different moments: it reads the key, and makes a round trip, about once a minute.
    sleep(Duration::from_secs(if shown == Shown::NoCall {
        2 + 6 * number as u64
    } else {
        2 + number as u64
    }))
    .await;
    if shown == Shown::CallWhileOneHangs {
        hanging.set(Mode::BlackHole);
        sleep(Duration::from_secs(3)).await;
    }
    let what = |words: &str| format!("{}, {mode}, {}: {words}", loss.name(), shown.name());

    let fault = Instant::now();
    tenant.lose(vault, loss).await;
    let mut began = fault;
    if shown != Shown::NoCall {
        began = Instant::now();
        assert!(call.make().await.is_err(), "a call after the fault\n{}", node.agent.log());
    }
    // Half of the clients keep calling, so that the agent has just looked when the fault ends.
    let keeps_calling = shown != Shown::NoCall && number % 2 == 1;
    tokio::select! {
        never = call.repeat(), if keeps_calling => match never {},
        () = async {
            let took = until("not ok", began, PAUSE, async || !node.is_ok().await).await;
            figures.time(&what("Status not ok"), shown.seen_within(), took);
            if local {
                // In memory all the time, and not used any more.
                assert!(node.kms.decrypt(&written).await.is_err(), "{}", node.agent.log());
                assert!(node.kms.encrypt(&SEED).await.is_err(), "{}", node.agent.log());
                let wiped = "are wiped: the key service refuses us";
                let took = until("wiped", fault, PAUSE, async || node.agent.log().contains(wiped)).await;
                figures.time(&what("wiped"), WIPED, took);
            }
            sleep((began + LASTS).saturating_duration_since(Instant::now())).await;
        } => {}
    }

    tenant.restore(vault, loss).await;
    let over = Instant::now();
    let ok = async { until("ok again", over, PAUSE, async || node.is_ok().await).await };
    let took = if shown == Shown::NoCall { ok.await } else { tokio::join!(ok, call.make()).0 };
    figures.time(&what("ok again"), shown.over_within(), took);
}

/// A call of an API server that reaches Vault in this mode.
struct Call {
    kms: Kms,
    /// With local KEKs only a seed that the agent has not seen needs Vault.
    seed: Option<Vec<u8>>,
}

impl Call {
    async fn make(&self) -> Result<(), Status> {
        let mut kms = self.kms.clone();
        match &self.seed {
            Some(seed) => kms.decrypt_raw(seed, "1").await.map(drop),
            None => kms.encrypt(&SEED).await.map(drop),
        }
    }

    /// Once a second, for ever.
    async fn repeat(&self) -> Infallible {
        loop {
            sleep(Duration::from_secs(1)).await;
            let _refused = self.make().await;
        }
    }
}
