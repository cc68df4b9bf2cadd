//! Tests of the actor with a fake server, in paused time.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;

use super::super::Handle;
use super::*;
use crate::clock::Deadline;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::secret::{Fingerprint, Secret};
use crate::vault::token::{Lease, Token};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A server where each request takes a second.
struct Fake {
    requests: Mutex<Vec<&'static str>>,
    login: Mutex<Result<Duration, ErrorKind>>,
    token_is_valid: Mutex<bool>,
    file_changed: Mutex<bool>,
}

impl Fake {
    fn new() -> Self {
        Self {
            requests: Mutex::default(),
            login: Mutex::new(Ok(HOUR)),
            token_is_valid: Mutex::new(true),
            file_changed: Mutex::new(false),
        }
    }

    async fn answer(&self, request: &'static str) {
        self.requests.lock().unwrap().push(request);
        tokio::time::sleep(SECOND).await;
    }

    fn count(&self, request: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|sent| **sent == request).count()
    }
}

#[async_trait]
impl TokenRequests for Fake {
    async fn files_changed(&self, files: Files) -> bool {
        files == Files::Credentials && std::mem::take(&mut *self.file_changed.lock().unwrap())
    }

    async fn fingerprint(&self) -> Result<Fingerprint, KeyServiceError> {
        Ok(Fingerprint::default())
    }

    async fn log_in(&self) -> Result<Token, KeyServiceError> {
        let now = Instant::now();
        self.answer("login").await;
        let ttl = self.login.lock().unwrap().map_err(|kind| KeyServiceError::new(kind, "no", "repair it"))?;
        Ok(Token {
            secret: Some(Secret::new("s.token".into())),
            generation: 0,
            born: now,
            lease: Lease::new(now, Some(ttl), true),
            num_uses: 0,
        })
    }

    async fn renew(&self, _token: &Token) -> Renewal {
        let at = Instant::now();
        self.answer("renew").await;
        Renewal::Granted { at, ttl: Some(HOUR), renewable: true }
    }

    async fn is_valid(&self, _token: &Token) -> Result<bool, KeyServiceError> {
        self.answer("lookup").await;
        Ok(*self.token_is_valid.lock().unwrap())
    }
}

/// Runs `work` beside an actor.
async fn beside_actor<T>(fake: &Fake, changes: &Changes, work: impl AsyncFnOnce(&Handle) -> T) -> T {
    let (handle, mut inbox) = Handle::new();
    let metrics = Metrics::default();
    let parts = Parts {
        requests: fake,
        status: &handle.status,
        changes,
        metrics: &metrics,
        method: "fake",
        has_token: true,
        remedy: String::new(),
    };
    tokio::select! {
        done = work(&handle) => done,
        () = run(parts, true, &mut inbox) => panic!("the actor does not end"),
    }
}

async fn token(handle: &Handle, time: Duration) -> Option<Answer> {
    handle.ask(Deadline::after(time), Command::Wanted).await
}

async fn refused(handle: &Handle, generation: u64) -> Option<Answer> {
    let at = Instant::now();
    let command = |reply| Command::Refused { generation, path: "path".into(), dead: false, at, reply };
    handle.ask(Deadline::after(SECOND * 9), command).await
}

fn generation(answer: Option<Answer>) -> u64 {
    match answer {
        Some(Answer::Token(token)) => token.generation,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn eight_callers_share_one_login() {
    let (fake, changes) = (Fake::new(), Changes::default());
    beside_actor(&fake, &changes, async |handle| {
        let callers = (0..8).map(|_| token(handle, SECOND * 3));
        let answers = futures_util::future::join_all(callers).await;
        assert!(answers.into_iter().all(|answer| generation(answer) == 1));
    })
    .await;
    assert_eq!(fake.count("login"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_no_longer_than_its_deadline_and_its_login_goes_on() {
    let (fake, changes) = (Fake::new(), Changes::default());
    beside_actor(&fake, &changes, async |handle| {
        let asked = Instant::now();
        assert!(token(handle, SECOND / 2).await.is_none());
        assert_eq!(asked.elapsed(), SECOND / 2);
        tokio::time::sleep(SECOND).await;
        assert_eq!(handle.current().unwrap().generation, 1, "nobody waits for it, and it has ended");
    })
    .await;
    assert_eq!(fake.count("login"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_ahead_of_time_without_a_caller() {
    let (fake, changes) = (Fake::new(), Changes::default());
    beside_actor(&fake, &changes, async |handle| {
        token(handle, SECOND * 3).await;
        tokio::time::sleep(HOUR * 10).await;
        let token = handle.current().unwrap();
        assert!(token.generation == 1 && token.lease.end().unwrap() > Instant::now());
    })
    .await;
    assert!((12..=15).contains(&fake.count("renew")), "{}", fake.count("renew"));
    assert_eq!(fake.count("login"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_token_costs_one_lookup_and_one_login() {
    let (fake, changes) = (Fake::new(), Changes::default());
    beside_actor(&fake, &changes, async |handle| {
        let first = token(handle, SECOND * 3).await;
        let Some(Answer::Token(first)) = first else { panic!("a token") };
        handle.record_success(&first, "path");
        tokio::time::sleep(SECOND * 61).await;
        *fake.token_is_valid.lock().unwrap() = false;
        let callers = (0..8).map(|_| refused(handle, 1));
        let answers = futures_util::future::join_all(callers).await;
        assert!(answers.into_iter().all(|answer| generation(answer) == 2));
    })
    .await;
    assert_eq!((fake.count("lookup"), fake.count("login")), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_sent_once_and_a_changed_file_is_used_within_two_seconds() {
    let (fake, changes) = (Fake::new(), Changes::default());
    *fake.login.lock().unwrap() = Err(ErrorKind::CredentialsRefused);
    beside_actor(&fake, &changes, async |handle| {
        for _ in 0..20 {
            assert!(matches!(token(handle, SECOND * 3).await, Some(Answer::Failed(_))));
        }
        assert_eq!(fake.count("login"), 1);
        // The fingerprint stays: only time and another one end the pause.
        tokio::time::sleep(HOUR).await;
        *fake.login.lock().unwrap() = Ok(HOUR);
        *fake.file_changed.lock().unwrap() = true;
        tokio::time::sleep(SECOND * 4).await;
        assert_eq!(handle.current().unwrap().generation, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_token_is_signalled_once() {
    let (fake, changes) = (Fake::new(), Changes::default());
    let (one, other) = (changes.subscribe(), changes.subscribe());
    let changed = || {
        let changed = one.changed().now_or_never().is_some();
        assert!(one.changed().now_or_never().is_none(), "once");
        assert_eq!(other.changed().now_or_never().is_some(), changed, "each receiver");
        changed
    };
    beside_actor(&fake, &changes, async |handle| {
        assert!(!changed());
        token(handle, SECOND * 3).await;
        assert!(changed() && handle.status.borrow().logins == 1);
        let held = handle.current().unwrap();
        handle.record_success(&held, "path");
        tokio::time::sleep(SECOND * 10).await;
        assert!(!changed(), "a success and the checks of the files change nothing that is shown");
        assert!(handle.status.borrow().accepted == 1);
        tokio::time::sleep(HOUR * 3 / 4).await;
        assert!(changed(), "renewed");
        *fake.login.lock().unwrap() = Err(ErrorKind::CredentialsRefused);
        *fake.file_changed.lock().unwrap() = true;
        tokio::time::sleep(SECOND * 4).await;
        assert!(changed() && handle.status.borrow().refused.is_some());
    })
    .await;
}
