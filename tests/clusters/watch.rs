//! Who leads a cluster, asked of each member about ten times a second: when it had no leader.
//!
//! Must not decide what a leaderless cluster excuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::Client;
use tokio::task::JoinSet;

use crate::cluster::{ASKED, Cluster};
use crate::support::pki::Pki;
use crate::support::vault::KEY;
use crate::users::Outage;

/// How often each member is asked.
const EVERY: Duration = Duration::from_millis(100);

/// A running watch.
pub struct Watch {
    stop: Arc<AtomicBool>,
    askers: JoinSet<Vec<Answer>>,
}

/// What one member said, or did not say in time.
#[derive(Clone, Copy)]
struct Answer {
    member: usize,
    begun: Instant,
    ended: Instant,
    /// It says that it leads, and it encrypts.
    leads: bool,
}

impl Watch {
    pub fn start(cluster: &Cluster) -> Self {
        let (stop, mut askers) = (Arc::<AtomicBool>::default(), JoinSet::new());
        // Not by the cluster's own clients: whoever restarts a member has borrowed them.
        let http = Client::builder().no_proxy().timeout(ASKED);
        let http = http.tls_backend_preconfigured(Pki::client_config(&cluster.pki)).build().unwrap();
        for (number, member) in cluster.members.iter().enumerate() {
            let (stop, http) = (stop.clone(), http.clone());
            let (address, token) = (member.address.clone(), member.root.clone());
            askers.spawn(async move {
                let mut answers = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let leads = leads(&http, &address, &token).await;
                    answers.push(Answer { member: number, begun, ended: Instant::now(), leads });
                    tokio::time::sleep(EVERY.saturating_sub(begun.elapsed())).await;
                }
                answers
            });
        }
        Self { stop, askers }
    }

    /// The times without a leader, in order.
    pub async fn stop(self) -> Vec<Outage> {
        self.stop.store(true, Ordering::Relaxed);
        leaderless(&self.askers.join_all().await.concat())
    }
}

async fn leads(http: &Client, address: &str, token: &str) -> bool {
    let health = http.get(format!("{address}/v1/sys/health")).send().await;
    if !health.is_ok_and(|answer| answer.status() == 200) {
        return false;
    }
    let encrypt = http.post(format!("{address}/v1/transit/encrypt/{KEY}"));
    let encrypt = encrypt.header("x-vault-token", token).body(r#"{"plaintext":""}"#).send().await;
    encrypt.is_ok_and(|answer| answer.status() == 200)
}

/// From the last answer of a leader to the next one, wherever that leader said in between that it does not lead, or said
/// nothing. Answers that are merely far apart are those of a busy machine.
fn leaderless(answers: &[Answer]) -> Vec<Outage> {
    let mut leading: Vec<_> = answers.iter().filter(|answer| answer.leads).collect();
    leading.sort_by_key(|answer| answer.begun);
    let pairs =
        leading.windows(2).filter_map(|pair| if let [last, next] = pair { Some((last, next)) } else { None });
    pairs
        .filter(|(last, next)| {
            answers.iter().any(|answer| {
                answer.member == last.member
                    && !answer.leads
                    && (last.begun..next.begun).contains(&answer.begun)
            })
        })
        .map(|(last, next)| Outage { lost: last.begun, back: next.ended })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each answer is a member, the tenth of a second, and whether it leads.
    fn spans(answers: &[(usize, u64, bool)]) -> Vec<(u64, u64)> {
        let start = Instant::now();
        let at = |tenth: u64| start + EVERY * u32::try_from(tenth).unwrap();
        let answers: Vec<_> = answers
            .iter()
            .map(|&(member, tenth, leads)| Answer { member, begun: at(tenth), ended: at(tenth), leads })
            .collect();
        let tenths = |instant: Instant| (instant - start).as_millis() as u64 / 100;
        leaderless(&answers).iter().map(|span| (tenths(span.lost), tenths(span.back))).collect()
    }

    #[test]
    fn only_a_leader_that_says_so_is_lost() {
        assert_eq!(spans(&[(0, 1, true), (1, 1, false), (0, 9, true)]), [], "a pause of the tests");
        assert_eq!(spans(&[(0, 1, true), (0, 2, false), (1, 5, true), (1, 6, true)]), [(1, 5)]);
        assert_eq!(spans(&[(0, 1, true), (1, 1, true), (0, 2, false), (1, 3, true)]), [], "another leads");
    }
}
