//! Who leads a cluster, asked of each member about ten times a second: when it had no leader.
//!
//! Must not decide what a leaderless cluster excuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Response};
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// It leads, and it encrypts.
    Leads,
    /// It does not lead, or does not run.
    Denies,
    /// It did not answer in time: it may be a busy machine.
    Nothing,
}

/// What one member said.
#[derive(Clone, Copy)]
struct Answer {
    member: usize,
    begun: Instant,
    ended: Instant,
    said: Said,
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
                    let said = ask(&http, &address, &token).await;
                    answers.push(Answer { member: number, begun, ended: Instant::now(), said });
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

async fn ask(http: &Client, address: &str, token: &str) -> Said {
    let said = |answer: reqwest::Result<Response>| match answer {
        Ok(answer) if answer.status() == 200 => Said::Leads,
        Err(error) if error.is_timeout() => Said::Nothing,
        _ => Said::Denies,
    };
    let health = said(http.get(format!("{address}/v1/sys/health")).send().await);
    if health != Said::Leads {
        return health;
    }
    let encrypt = http.post(format!("{address}/v1/transit/encrypt/{KEY}"));
    said(encrypt.header("x-vault-token", token).body(r#"{"plaintext":""}"#).send().await)
}

/// From the last answer of a leader to the next one, wherever that leader denied in between that it leads. Answers that are
/// merely far apart are those of a busy machine.
fn leaderless(answers: &[Answer]) -> Vec<Outage> {
    let mut leading: Vec<_> = answers.iter().filter(|answer| answer.said == Said::Leads).collect();
    leading.sort_by_key(|answer| answer.begun);
    let pairs =
        leading.windows(2).filter_map(|pair| if let [last, next] = pair { Some((last, next)) } else { None });
    pairs
        .filter(|(last, next)| {
            answers.iter().any(|answer| {
                answer.member == last.member
                    && answer.said == Said::Denies
                    && (last.begun..next.begun).contains(&answer.begun)
            })
        })
        .map(|(last, next)| Outage { lost: last.begun, back: next.ended })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each answer is a member, the tenth of a second, and what it said.
    fn spans(answers: &[(usize, u64, Said)]) -> Vec<(u64, u64)> {
        let start = Instant::now();
        let at = |tenth: u64| start + EVERY * u32::try_from(tenth).unwrap();
        let answers: Vec<_> = answers
            .iter()
            .map(|&(member, tenth, said)| Answer { member, begun: at(tenth), ended: at(tenth), said })
            .collect();
        let tenths = |instant: Instant| (instant - start).as_millis() as u64 / 100;
        leaderless(&answers).iter().map(|span| (tenths(span.lost), tenths(span.back))).collect()
    }

    #[test]
    fn only_a_leader_that_says_so_is_lost() {
        use Said::{Denies, Leads, Nothing};
        assert_eq!(spans(&[(0, 1, Leads), (1, 1, Denies), (0, 9, Leads)]), [], "a pause of the tests");
        assert_eq!(spans(&[(0, 1, Leads), (0, 2, Nothing), (0, 9, Leads)]), [], "a busy machine");
        assert_eq!(spans(&[(0, 1, Leads), (0, 2, Denies), (1, 5, Leads), (1, 6, Leads)]), [(1, 5)]);
        assert_eq!(
            spans(&[(0, 1, Leads), (1, 1, Leads), (0, 2, Denies), (1, 3, Leads)]),
            [],
            "another leads"
        );
    }
}
