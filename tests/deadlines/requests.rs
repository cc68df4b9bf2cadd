//! How many requests of an idle node the audit log shows.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use crate::audit::{a_day, audited};
use crate::figures::{Figures, TRIES};
use crate::node::{Node, PAUSE, until};
use crate::support::kms::SEED;
use crate::support::vault::Vault;
use crate::tenant::{Loss, Tenant};

const WELL: f64 = 4_500.0;
const REFUSED: f64 = 10_000.0;
/// How long the requests are counted.
const WINDOW: Duration = Duration::from_secs(300);

#[test]
fn an_idle_node_asks_as_seldom_as_promised() {
    let (figures, all) = (Figures::default(), Mutex::new([0.0; 2]));
    figures.run(async |_| {
        let vault = Vault::start().await;
        let tenants = [Tenant::new(&vault, "well").await, Tenant::new(&vault, "refused").await];
        let [well, refused] = &tenants;
        let _well = Node::ready(&well.config(&[&vault.address])).await;
        let mut node = Node::ready(&refused.config(&[&vault.address])).await;
        refused.lose(&vault, Loss::Right).await;
        let _refused = node.kms.encrypt(&SEED).await.unwrap_err();
        until("not ok", std::time::Instant::now(), PAUSE, async || !node.is_ok().await).await;
        // Until the agent looks at the refusal as seldom as it will all day.
        sleep(Duration::from_secs(45)).await;
        let began = SystemTime::now();
        sleep(WINDOW).await;
        let counted = tenants.each_ref().map(|tenant| {
            let requests = audited(&vault, &tenant.name).into_iter().filter(|(_, time)| *time >= began);
            a_day(&requests.collect::<Vec<_>>(), WINDOW)
        });
        // Five minutes of one node are few pauses, and each has a jitter: what is promised holds for the mean.
        figures.number("audited requests a day, well", None, counted[0]);
        figures.number("audited requests a day, refused", None, counted[1]);
        let mut all = all.lock().unwrap();
        all.iter_mut().zip(counted).for_each(|(sum, count)| *sum += count);
    });
    let [well, refused] = all.into_inner().unwrap().map(|sum| sum / TRIES as f64);
    println!("MEASURED audited requests a day, mean of {TRIES} nodes: well {well:.0}, refused {refused:.0}");
    figures.finish();
    assert!(well <= WELL, "{well}");
    assert!(refused <= REFUSED, "{refused}");
}
