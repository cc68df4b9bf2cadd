//! A steady load of Status, Encrypt and Decrypt that checks every byte and every key_id.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kms_plugin::proto::EncryptResponse;
use tokio::task::JoinSet;
use tonic::Code;

use super::kms::{DEADLINE, Kms, SEED};
use super::{PATIENCE, eventually};

/// Callers at once.
const CALLERS: usize = 4;
/// Calls that a load makes at the least, however slow the machine is.
const LEAST_CALLS: usize = 100;
/// Good calls without a failed one between them that show a recovery.
const RECOVERED: usize = 40;
/// Pause of a caller between two rounds.
const PAUSE: Duration = Duration::from_millis(5);

/// One call's end.
#[derive(Clone, Debug)]
#[allow(dead_code)] // the text is read by whoever reads a failed assertion
pub struct Call {
    pub ended: Instant,
    pub took: Duration,
    pub code: Code,
    pub text: String,
}

/// A running load.
pub struct Load {
    stop: Arc<AtomicBool>,
    progress: Arc<Progress>,
    callers: JoinSet<Vec<Call>>,
}

/// What all callers have done so far.
#[derive(Default)]
struct Progress {
    calls: AtomicUsize,
    /// Good ones since the last failed one.
    good: AtomicUsize,
}

impl Load {
    /// Starts callers, each on a connection of its own, which is made anew when it breaks. `first` is
    /// decrypted over and over: old data must stay readable.
    pub fn start(socket: &Path, first: &EncryptResponse) -> Self {
        Self::start_within(PATIENCE, socket, first)
    }

    /// The same with kube-apiserver's deadline for each call, for tests of what is done within it.
    pub fn start_with_deadline(socket: &Path, first: &EncryptResponse) -> Self {
        Self::start_within(DEADLINE, socket, first)
    }

    fn start_within(deadline: Duration, socket: &Path, first: &EncryptResponse) -> Self {
        let (stop, progress) = (Arc::<AtomicBool>::default(), Arc::<Progress>::default());
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (stop, progress) = (stop.clone(), progress.clone());
            let (socket, first) = (socket.to_path_buf(), first.clone());
            callers.spawn(async move {
                let mut kms = Kms::connect(&socket).await.within(deadline);
                let mut calls = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let made = calls.len();
                    round(&mut kms, &first, &mut calls).await;
                    progress.note(&calls[made..]);
                    tokio::time::sleep(PAUSE).await;
                }
                calls
            });
        }
        Self { stop, progress, callers }
    }

    /// Ends the load, once it has made enough calls and the last of them were good; every call that was made.
    pub async fn stop(self) -> Calls {
        eventually("enough calls, and good ones at the end", async || {
            let (calls, good) =
                (self.progress.calls.load(Ordering::Relaxed), self.progress.good.load(Ordering::Relaxed));
            if calls >= LEAST_CALLS && good >= RECOVERED {
                Ok(())
            } else {
                Err(format!("{calls} calls, the last {good} of them good"))
            }
        })
        .await;
        self.stop.store(true, Ordering::Relaxed);
        Calls(self.callers.join_all().await.concat())
    }
}

impl Progress {
    fn note(&self, made: &[Call]) {
        self.calls.fetch_add(made.len(), Ordering::Relaxed);
        for call in made {
            match call.code {
                Code::Ok => self.good.fetch_add(1, Ordering::Relaxed),
                _ => self.good.swap(0, Ordering::Relaxed),
            };
        }
    }
}

async fn round(kms: &mut Kms, first: &EncryptResponse, calls: &mut Vec<Call>) {
    let started = Instant::now();
    let mut status = kms.status().await;
    if never_sent(&status) {
        status = kms.status().await;
    }
    let announced = status.as_ref().ok().map(|status| status.key_id.clone());
    note(calls, started, status.err());
    let started = Instant::now();
    let mut wrapped = kms.encrypt(&SEED).await;
    if never_sent(&wrapped) {
        wrapped = kms.encrypt(&SEED).await;
    } else if let (Ok(wrapped), Some(announced)) = (&wrapped, &announced) {
        assert_eq!(&wrapped.key_id, announced, "Status and Encrypt disagree on one connection");
    }
    note(calls, started, wrapped.as_ref().err().cloned());
    for old in wrapped.iter().chain([first]) {
        let started = Instant::now();
        let mut unwrapped = kms.decrypt(old).await;
        if never_sent(&unwrapped) {
            unwrapped = kms.decrypt(old).await;
        }
        if let Ok(bytes) = &unwrapped {
            assert_eq!(bytes, &SEED, "a wrong byte");
        }
        note(calls, started, unwrapped.err());
    }
}

/// Whether this client did not send the call, since its connection had been closed in order. Such a call is repeated, as
/// kube-apiserver's grpc-go does by itself.
pub fn never_sent<T>(result: &Result<T, tonic::Status>) -> bool {
    let canceled = |status: &tonic::Status| {
        status.code() == Code::Cancelled && status.message() == "operation was canceled"
    };
    result.as_ref().err().is_some_and(canceled)
}

fn note(calls: &mut Vec<Call>, started: Instant, status: Option<tonic::Status>) {
    let (code, text) =
        status.map_or((Code::Ok, String::new()), |status| (status.code(), status.message().to_owned()));
    calls.push(Call { ended: Instant::now(), took: started.elapsed(), code, text });
}

/// What a load has seen.
pub struct Calls(pub Vec<Call>);

impl Calls {
    /// Those that failed.
    pub fn failed(&self) -> Vec<&Call> {
        self.0.iter().filter(|call| call.code != Code::Ok).collect()
    }

    /// Fails when a single call failed, or when more than one in a hundred took too long for kube-apiserver.
    pub fn none_failed(&self, what: &str) {
        assert!(
            self.failed().is_empty(),
            "{what}: {} of {} failed: {:?}",
            self.failed().len(),
            self.0.len(),
            self.failed().first()
        );
        // kube-apiserver gives up at its deadline. On a busy machine a few calls of this client are late by themselves.
        let late = self.0.iter().filter(|call| call.took >= DEADLINE).count();
        assert!(
            late * 100 <= self.0.len(),
            "{what}: {late} of {} took longer than {DEADLINE:?}",
            self.0.len()
        );
    }

    /// Fails when a call failed outside of the outage or with another code, or took longer than its
    /// deadline. Returns how long after `back` the last call began that still failed.
    pub fn failed_only_between(&self, what: &str, away: Instant, back: Instant, codes: &[Code]) -> Duration {
        let failed = self.failed();
        assert!(!failed.is_empty(), "{what}: the fault was not seen");
        for call in &failed {
            assert!(call.ended >= away, "{what}: failed before the fault: {call:?}");
            assert!(codes.contains(&call.code), "{what}: {call:?}");
        }
        for call in &self.0 {
            // The promise is that the agent answers within kube-apiserver's deadline; what is beyond it is time in
            // which this client waited for a processor.
            assert!(
                call.took < DEADLINE + Duration::from_secs(2),
                "{what}: the deadline was not kept: {call:?}"
            );
        }
        let begun = failed.iter().map(|call| call.ended - call.took).max().unwrap();
        let recovery = begun.saturating_duration_since(back);
        eprintln!(
            "MEASURED {what}: {} calls, {} failed, last failing call begun {recovery:.2?} after the end of the fault",
            self.0.len(),
            failed.len()
        );
        recovery
    }
}
