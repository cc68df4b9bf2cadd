//! The attempts of a call, on a transport whose answers are written down: the faults have an exact time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hyper::Method;
use zeroize::Zeroizing;

use super::*;
use crate::config::endpoint::Endpoint;
use crate::config::secret::{RoleId, SecretSource};
use crate::config::settings::{Grace, Health};
use crate::config::vault::{Auth, Method as AuthMethod, Vault};
use crate::secret::Secret;
use crate::telemetry::metrics::Metrics;
use crate::vault::Budget;
use crate::vault::address::Address;
use crate::vault::transport::{Response, Transport};

/// HAProxy 3.0's own page.
const PAGE: &str = "<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>\n";
const GOOD: &str = r#"{"request_id":"1","data":{"ciphertext":"vault:v1:AAAA"}}"#;
/// OpenBao 2.7.2's, in an election.
const NO_LEADER: &str = r#"{"errors":["local node not active but active cluster node not found"]}"#;

/// What an address does with a request.
#[derive(Clone, Copy)]
enum Does {
    Answers(u16, &'static str),
    AsksToWait(u64),
    Hangs,
}

/// What the addresses do: with each further request the next, and then the last one for good. And what they were sent:
/// when, which, and the index.
struct Written {
    does: Vec<Mutex<VecDeque<Does>>>,
    sent: Mutex<Vec<(Duration, usize, Option<String>)>>,
    began: Instant,
    /// The index in each answer.
    index: Option<String>,
}

#[async_trait]
impl Transport for Written {
    async fn send(
        &self,
        address: &Address,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Response, KeyServiceError> {
        let number: usize = address.name.rsplit('-').next().unwrap().parse().unwrap();
        self.sent.lock().unwrap().push((self.began.elapsed(), number, request.index.map(str::to_owned)));
        let does = {
            let mut does = self.does[number].lock().unwrap();
            if does.len() > 1 { does.pop_front().unwrap() } else { does[0] }
        };
        let (status, body, retry_after) = match does {
            Does::Answers(status, body) => (status, body, None),
            Does::AsksToWait(seconds) => (503, NO_LEADER, Some(Duration::from_secs(seconds))),
            Does::Hangs => {
                tokio::time::sleep_until(deadline.instant()).await;
                return Err(classification::timeout(&address.name));
            }
        };
        let body = Zeroizing::new(body.as_bytes().to_vec());
        let index = self.index.clone().filter(|_| status == 200);
        Ok(Response { status, location: None, retry_after, index, quota: None, body })
    }
}

fn written(does: Vec<Vec<Does>>) -> (Client, Arc<Written>) {
    with_index(does, None)
}

fn with_index(does: Vec<Vec<Does>>, index: Option<&str>) -> (Client, Arc<Written>) {
    within(Budget::unlimited(), does, index)
}

fn within(budget: Budget, does: Vec<Vec<Does>>, index: Option<&str>) -> (Client, Arc<Written>) {
    let addresses =
        (0..does.len()).map(|number| Endpoint::parse(&format!("http://server-{number}"), true).unwrap());
    let method = AuthMethod::AppRole {
        role_id: RoleId::Literal("role".into()),
        secret_id: Some(SecretSource::file("/nowhere".as_ref(), false)),
        wrapped: false,
    };
    let vault = Vault::example(addresses, Auth { mount: "approle".into(), method });
    let transport = Arc::new(Written {
        does: does.into_iter().map(|does| Mutex::new(does.into())).collect(),
        sent: Mutex::default(),
        began: Instant::now(),
        index: index.map(str::to_owned),
    });
    let client = Client::new(&vault, Metrics::default(), transport.clone(), budget).unwrap();
    (client, transport)
}

impl Written {
    /// Which addresses were asked, in order.
    fn asked(&self) -> Vec<usize> {
        self.sent.lock().unwrap().iter().map(|(_, number, _)| *number).collect()
    }
}

const DEADLINE: Duration = Duration::from_millis(2950);

async fn call(client: &Client, path: &str, purpose: Purpose) -> (Result<Answer, CallError>, Duration) {
    let (began, token) = (Instant::now(), Secret::new("s.AAAAAAAAAAAAAAAAAAAAAAAA".into()));
    let request = Request { token: Some(&token), ..Request::new(Method::POST, path) };
    let result = client.call(&request, Deadline::after(DEADLINE).of(purpose)).await;
    (result, began.elapsed())
}

async fn encrypt(client: &Client) -> (Result<Answer, CallError>, Duration) {
    call(client, "transit/encrypt/kms-key", Purpose::ApiServer).await
}

fn kind(result: Result<Answer, CallError>) -> ErrorKind {
    match result {
        Err(CallError::Failed(error)) => error.kind(),
        Err(CallError::Refused(_)) => panic!("refused"),
        Ok(_) => panic!("answered"),
    }
}

use Does::{Answers, AsksToWait, Hangs};

/// A login that waited has used up the time: that is no fault of the server.
#[tokio::test(start_paused = true)]
async fn a_call_of_the_agents_own_that_has_no_time_left_blames_nobody() {
    for (purpose, left, expected) in [
        (Purpose::Background, 20, ErrorKind::HeldBack),
        (Purpose::Upkeep, 20, ErrorKind::HeldBack),
        (Purpose::Background, 60, ErrorKind::Deadline),
        (Purpose::ApiServer, 20, ErrorKind::Deadline),
        (Purpose::ApiServer, 0, ErrorKind::Deadline),
    ] {
        let (client, transport) = written(vec![vec![Hangs]]);
        let token = Secret::new("s.AAAAAAAAAAAAAAAAAAAAAAAA".into());
        let (path, method) = ("transit/encrypt/kms-key", Method::POST);
        let request = Request { token: Some(&token), ..Request::new(method, path) };
        let deadline = Deadline::after(Duration::from_millis(left)).of(purpose);
        assert_eq!(kind(client.call(&request, deadline).await), expected, "{purpose:?} {left} ms");
        assert_eq!(transport.asked().is_empty(), expected == ErrorKind::HeldBack || left == 0);
    }
}

/// A timer's steps are milliseconds: one for a time that has come would delay each call by one or two.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_answered_at_once_waits_for_no_timer() {
    let good = Answers(200, GOOD);
    for does in [vec![vec![good]], vec![vec![Answers(503, PAGE)], vec![good]]] {
        let (client, _) = written(does);
        // Between two steps.
        tokio::time::advance(Duration::from_micros(300)).await;
        let (result, took) = encrypt(&client).await;
        assert!(result.is_ok() && took.is_zero(), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_address_is_tried_again_since_it_may_be_a_balancer() {
    let good = Answers(200, GOOD);
    for first in
        [Answers(503, PAGE), Answers(504, PAGE), Answers(500, NO_LEADER), Answers(429, r#"{"errors":[]}"#)]
    {
        let (client, written) = written(vec![vec![first, first, good]]);
        let (result, took) = encrypt(&client).await;
        assert!(result.is_ok() && took < Duration::from_millis(200), "{took:?}");
        assert_eq!(written.asked().len(), 3);
    }
    // For good: the number of attempts is bounded, and the answer says why.
    let (client, written) = written(vec![vec![Answers(503, PAGE)]]);
    let (result, took) = encrypt(&client).await;
    assert_eq!(kind(result), ErrorKind::Unreachable);
    assert!((8..=MAX_PASSES).contains(&written.asked().len()), "{}", written.asked().len());
    assert!(took > Duration::from_secs(2) && took < DEADLINE, "{took:?}");
    // The agent comes back by itself.
    let (client, written) = self::written(vec![vec![Answers(503, PAGE)]]);
    let (result, took) = call(&client, "transit/encrypt/kms-key", Purpose::Background).await;
    assert_eq!((kind(result), written.asked().len()), (ErrorKind::Unreachable, 3));
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_address_that_hangs_leaves_the_time_to_the_others() {
    let (client, written) = written(vec![vec![Hangs], vec![Hangs], vec![Answers(200, GOOD)]]);
    let (result, took) = encrypt(&client).await;
    assert!(result.is_ok_and(|answer| answer.address == 2) && took < DEADLINE / 2, "{took:?}");
    assert_eq!(written.asked(), [0, 1, 2]);
    let reachable: Vec<_> = client.states().into_iter().map(|state| state.reachable).collect();
    assert_eq!(reachable, [Some(false), Some(false), Some(true)]);
    let (result, took) = encrypt(&client).await;
    assert!(result.is_ok() && took < Duration::from_millis(10), "the one that served is the first: {took:?}");
    // A balancer that leads to a server that hangs, and then to another one.
    let (client, written) = self::written(vec![vec![Hangs, Answers(200, GOOD)]]);
    let (result, took) = encrypt(&client).await;
    assert!(result.is_ok() && took < DEADLINE / 2, "{took:?}");
    assert_eq!(written.asked().len(), 2);
    // All hang: the deadline is kept, and few requests are under way.
    let (client, written) = self::written(vec![vec![Hangs], vec![Hangs]]);
    let (result, took) = encrypt(&client).await;
    assert_eq!((kind(result), took <= DEADLINE + Duration::from_millis(2)), (ErrorKind::Deadline, true));
    assert_eq!(written.asked().len(), MAX_RUNNING);
}

#[tokio::test(start_paused = true)]
async fn calls_that_change_something_are_sent_one_after_the_other() {
    for path in ["auth/approle/login", "auth/token/renew-self"] {
        let (client, written) = written(vec![vec![Hangs], vec![Hangs], vec![Answers(500, NO_LEADER)]]);
        let (result, _) = call(&client, path, Purpose::Upkeep).await;
        assert!(kind(result).is_outage());
        let sent = written.sent.lock().unwrap().clone();
        let at: Vec<_> = sent.iter().take(3).map(|(at, number, _)| (at.as_millis() / 100, *number)).collect();
        assert_eq!(at, [(0, 0), (9, 1), (19, 2)], "{path}: each in its share");
    }
}

/// After an outage the agent's own budget is used up: what then waits for its turn has not been sent to anybody.
#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_its_turn_is_sent_once_and_blames_no_address() {
    let login =
        r#"{"request_id":"1","auth":{"client_token":"s.AAAAAAAAAAAAAAAAAAAAAAAA","lease_duration":60}}"#;
    for (path, purpose, good) in [
        ("transit/encrypt/kms-key", Purpose::Background, GOOD),
        ("auth/approle/login", Purpose::Upkeep, login),
    ] {
        let second = Duration::from_secs(1);
        let (outage_grace, ready_timeout) = (Grace::Unlimited, second * 30);
        let (key_check_interval, probe_interval) = (second * 60, second * 90);
        let health = Health {
            outage_grace,
            ready_timeout,
            key_check_interval,
            probe_interval,
            sealed_is_denied: false,
        };
        let budget = Budget::new("primary", &health, 1, 6, Metrics::default());
        while budget.wait(purpose) < second {
            let used = budget.admit(false, "address", Deadline::after(second * 60).of(purpose));
            // A wait that is given up keeps its place.
            let _waits = tokio::time::timeout(Duration::ZERO, used).await;
        }
        let good = vec![Answers(200, good)];
        let (client, written) = within(budget, vec![good.clone(), good], None);
        let (result, took) = call(&client, path, purpose).await;
        assert_eq!(result.map(|answer| answer.address).map_err(|error| kind(Err(error))), Ok(0), "{path}");
        assert!(took >= second && took < second * 2, "{path}: {took:?}");
        assert_eq!(written.asked(), [0], "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_a_server_asks_for_is_kept_once_where_the_time_allows_it() {
    let (client, written) = written(vec![vec![AsksToWait(1), Answers(200, GOOD)]]);
    let (result, took) = encrypt(&client).await;
    assert!(result.is_ok() && took >= Duration::from_secs(1), "{took:?}");
    assert_eq!(written.asked().len(), 2);
    let (client, written) = self::written(vec![vec![AsksToWait(30)]]);
    let (result, took) = encrypt(&client).await;
    assert_eq!((kind(result), written.asked().len()), (ErrorKind::Standby, 1));
    assert!(took < Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_is_behind_sends_a_request_on() {
    // OpenBao 2.7.2's.
    let index = "eyJjbHVzdGVyIjoiY2RhZmNiNjQtNTM3OS00YTIyLWYxZWUtY2E5ZDRhY2UwYmJlIiwidmFsdWUiOiI0OCJ9";
    let (good, bad) =
        (Answers(200, GOOD), Answers(400, r#"{"errors":["failed to decode \"X-Vault-Index\""]}"#));
    let does = vec![good, good, good, Answers(500, NO_LEADER), good, bad, good];
    let (client, written) = with_index(vec![does], Some(index));
    for purpose in [
        Purpose::ApiServer,
        Purpose::ApiServer,
        Purpose::Background,
        Purpose::Background,
        Purpose::Background,
    ] {
        assert!(call(&client, "transit/encrypt/kms-key", purpose).await.0.is_ok());
    }
    let sent: Vec<_> = written.sent.lock().unwrap().iter().map(|(_, _, index)| index.clone()).collect();
    let [first, api, background, no_leader, alone, refused, after] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((first, api.as_deref()), (&None, Some(index)));
    assert!(background.is_some() && background != api, "the agent's own view is the active server's");
    assert_eq!(no_leader, background);
    assert_eq!(alone, &None, "without a leader, a standby may serve alone");
    assert_eq!((refused, after.as_deref()), (background, Some(index)), "a server that does not take it");
}

async fn calls_at_once(client: &Client, number: usize) -> Vec<(Result<Answer, CallError>, Duration)> {
    futures_util::future::join_all((0..number).map(|_| encrypt(client))).await
}

/// Each further attempt needs a connection of its own: its handshake would keep a slow server slow.
#[tokio::test(start_paused = true)]
async fn of_many_calls_that_are_not_answered_only_some_have_further_attempts() {
    for (calls, asked) in [(1, 3), (8, 24), (100, 116)] {
        let (client, transport) = written(vec![vec![Hangs]]);
        let failed = calls_at_once(&client, calls).await;
        assert!(failed.into_iter().all(|(result, _)| kind(result) == ErrorKind::Deadline));
        assert_eq!(transport.asked().len(), asked, "{calls} calls");
        assert_eq!(client.hedged.available_permits(), MAX_HEDGED);
    }
}

/// A balancer in front of three servers, one of which is dead: each third request hangs, and so all three of some calls.
#[tokio::test(start_paused = true)]
async fn calls_through_a_balancer_with_a_dead_server_are_answered() {
    for calls in [1, 8, 60] {
        let does = (0..1000).map(|number| if number % 3 == 0 { Hangs } else { Answers(200, GOOD) });
        let (client, _) = written(vec![does.collect()]);
        for _ in 0..5 {
            let (answered, failed): (Vec<_>, Vec<_>) =
                calls_at_once(&client, calls).await.into_iter().partition(|(result, _)| result.is_ok());
            let longest = answered.iter().map(|(_, took)| *took).max().unwrap();
            assert!(failed.len() <= calls / 20 && longest < Duration::from_millis(1800), "{longest:?}");
        }
    }
}
