//! Vault is away: what works, what fails and when, and that all of it recovers without a restart.

use std::time::{Duration, Instant};

use crate::apiserver::ApiServer;
use crate::encryption::{kms, of};
use crate::etcd::Etcd;
use crate::support::agent::{Agent, QUICK};
use crate::support::vault::{KEY, Vault, policy};
use crate::traffic::{Kind, Traffic};

/// How Vault is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    /// Killed: connections are refused.
    Refuses,
    /// Stopped by SIGSTOP: connections are accepted, and nothing is answered.
    Hangs,
    /// It refuses: the policy is gone. The grace does not count for that.
    Denies,
}

/// The grace, compared with the length of the outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grace {
    Longer,
    Shorter,
}

impl Grace {
    fn configured(self) -> &'static str {
        match self {
            Self::Longer => "1h",
            Self::Shorter => "5s",
        }
    }
}

/// One outage under load; prints a row of the table in `docs/reliability.md`.
async fn outage(away: Away, length: Duration, grace: Grace) {
    let (etcd, mut vault) = tokio::join!(Etcd::start(), Vault::persistent());
    let config = format!("{}{QUICK}outage_grace = {:?}\n", vault.vault_config(), grace.configured());
    let agent = Agent::ready(&config).await;
    let api = ApiServer::ready(&etcd, &of(&[kms(&agent.socket())])).await;
    let traffic = Traffic::start(&[&api.client]).await;
    let begun = Instant::now();
    match away {
        Away::Refuses => vault.kill(),
        Away::Hangs => vault.freeze(),
        Away::Denies => vault.put_policy("kms", &policy("transit", "another-key")).await,
    }
    tokio::time::sleep(length).await;
    match away {
        Away::Refuses => vault.restart().await,
        Away::Hangs => vault.thaw(),
        Away::Denies => vault.put_policy("kms", &policy("transit", KEY)).await,
    }
    let back = Instant::now();
    agent.wait_for_phase("ready").await;
    api.wait_ready().await;
    let ready = back.elapsed();
    let seen = traffic.stop().await;
    let failed = |kind: Kind| {
        let failed = seen.failed(kind);
        let first = failed.first().map(|done| format!(", after {:.0?}", done.ended.duration_since(begun)));
        format!("{} of {}{}", failed.len(), seen.count(kind), first.unwrap_or_default())
    };
    let longest =
        [Kind::Read, Kind::List, Kind::Write].map(|kind| seen.longest(kind)).into_iter().max().unwrap();
    eprintln!(
        "MEASURED | {} s | {away:?} | {} | {} | {} | {} | {} | {longest:.2?} | {ready:.1?} |",
        length.as_secs(),
        grace.configured(),
        failed(Kind::Ready),
        failed(Kind::Read),
        failed(Kind::List),
        failed(Kind::Write),
    );
    let noticed = grace == Grace::Shorter || away == Away::Denies;
    assert_eq!(!seen.failed(Kind::Ready).is_empty(), noticed, "{:?}", seen.failed(Kind::Ready).first());
    let mut kinds = vec![Kind::Read, Kind::List];
    if away == Away::Denies {
        assert!(!seen.failed(Kind::Write).is_empty(), "a refusal stops writes");
    } else {
        kinds.push(Kind::Write);
    }
    for kind in kinds {
        assert!(seen.failed(kind).is_empty(), "{:?}", seen.failed(kind).first());
    }
}

#[tokio::test]
async fn an_unreachable_vault_within_the_grace_fails_nothing() {
    outage(Away::Refuses, Duration::from_secs(30), Grace::Longer).await;
}

#[tokio::test]
async fn a_hanging_vault_beyond_the_grace_fails_only_readyz() {
    outage(Away::Hangs, Duration::from_secs(30), Grace::Shorter).await;
}

/// The table of `docs/reliability.md`: all outages at once, each with API server and plugin of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes 11 minutes: tests/e2e/run --outages"]
async fn outages_of_minutes() {
    let mut outages = Vec::new();
    for minutes in [1, 3, 10] {
        for away in [Away::Refuses, Away::Hangs] {
            for grace in [Grace::Longer, Grace::Shorter] {
                outages.push(outage(away, Duration::from_secs(60 * minutes), grace));
            }
        }
    }
    futures_util::future::join_all(outages).await;
}

/// A refusal is not an outage: the API server writes with its seed for three minutes, and then no more.
#[tokio::test]
#[ignore = "takes 5 minutes: tests/e2e/run --outages"]
async fn a_refusal_of_minutes() {
    outage(Away::Denies, Duration::from_secs(60 * 4), Grace::Longer).await;
}

/// An API server that starts in an outage has no seed in memory: it is ready as soon as Vault is back.
#[tokio::test]
async fn an_api_server_that_starts_in_an_outage_waits_for_vault() {
    let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let encryption = of(&[kms(&agent.socket())]);
    let mut api = ApiServer::ready(&etcd, &encryption).await;
    api.client.write("secrets", "one", "text").await.unwrap();
    vault.freeze();
    agent.wait_for_reason("degraded", "unreachable").await;
    api.restart_cold(&encryption).await;
    let refused = api.client.read("secrets", "one").await.unwrap_err();
    assert!(refused.contains("InternalError"), "{refused}");
    assert!(api.client.write("secrets", "two", "text").await.is_err());
    let check = api.kms_check_fails(&["remedy"]).await;
    eprintln!("MEASURED an API server that starts in an outage says: {check}");
    assert_eq!(api.client.get("/readyz").await.unwrap().status, 500);
    // For its first minute it is not live either: it waits that long for its caches.
    let live = api.client.get("/livez?verbose").await.unwrap();
    assert!(!live.text.contains("[-]kms"), "{}", live.text);
    vault.thaw();
    let back = Instant::now();
    api.wait_ready().await;
    eprintln!(
        "MEASURED an API server that started in an outage is ready {:.2?} after its end",
        back.elapsed()
    );
    assert_eq!(api.client.read("secrets", "one").await.unwrap(), "text");
}
