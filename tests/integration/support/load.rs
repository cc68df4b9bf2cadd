//! A steady load of Status, Encrypt and Decrypt that checks every byte and every key_id.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kms_plugin::proto::EncryptResponse;
use tokio::task::JoinSet;
use tonic::Code;

use super::kms::{Kms, SEED, TIMEOUT};

/// Callers at once.
const CALLERS: usize = 4;
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
    callers: JoinSet<Vec<Call>>,
}

impl Load {
    /// Starts callers, each on a connection of its own, which is made anew when it breaks. `first` is
    /// decrypted over and over: old data must stay readable.
    pub fn start(socket: &Path, first: &EncryptResponse) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (stop, socket, first) = (stop.clone(), socket.to_path_buf(), first.clone());
            callers.spawn(async move {
                let mut kms = Kms::connect(&socket).await;
                let mut calls = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    round(&mut kms, &first, &mut calls).await;
                    tokio::time::sleep(PAUSE).await;
                }
                calls
            });
        }
        Self { stop, callers }
    }

    /// Ends the load; every call that was made.
    pub async fn stop(self) -> Calls {
        self.stop.store(true, Ordering::Relaxed);
        Calls(self.callers.join_all().await.concat())
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

/// A call that this client never sent, since its connection was closed in an orderly way, is made again:
/// kube-apiserver's grpc-go does that by itself.
fn never_sent<T>(result: &Result<T, tonic::Status>) -> bool {
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

    /// Fails when a single call failed, or when hardly any was made.
    pub fn none_failed(&self, what: &str) {
        assert!(
            self.failed().is_empty(),
            "{what}: {} of {} failed: {:?}",
            self.failed().len(),
            self.0.len(),
            self.failed().first()
        );
        assert!(self.0.len() > 100, "{what}: only {} calls", self.0.len());
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
            // The client's own clock on a busy machine: some room beyond the deadline.
            assert!(
                call.took < TIMEOUT + Duration::from_millis(500),
                "{what}: the deadline was not kept: {call:?}"
            );
        }
        let last = failed.iter().map(|call| call.ended).max().unwrap();
        let begun = failed.iter().map(|call| call.ended - call.took).max().unwrap();
        let recovery = begun.saturating_duration_since(back);
        let good_after = self.0.iter().filter(|call| call.ended > last && call.code == Code::Ok).count();
        assert!(good_after > 20, "{what}: no recovery was seen");
        eprintln!(
            "MEASURED {what}: {} calls, {} failed, last failing call begun {recovery:.2?} after the end of the fault",
            self.0.len(),
            failed.len()
        );
        recovery
    }
}
