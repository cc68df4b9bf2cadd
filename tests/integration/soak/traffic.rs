//! A steady KMS traffic to one agent that checks every byte and every key_id, and notes what failed and when.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kms_plugin::proto::EncryptResponse;
use tonic::Status;

use crate::support::kms::Kms;
use crate::support::load::never_sent;

/// A round of Status, Encrypt and two Decrypt.
const PACE: Duration = Duration::from_millis(200);
/// Longer than kube-apiserver's 3 s, because a soak may share its machine; the slowest call is told.
const DEADLINE: Duration = Duration::from_secs(10);
/// Values of the beginning, kept to the end.
const FIRST: usize = 64;
/// Values of the last minutes.
const LAST: usize = 256;

/// A call that failed.
#[derive(Clone, Debug)]
#[allow(dead_code)] // the text is read by whoever reads a failed assertion
pub struct Failure {
    pub began: Instant,
    pub ended: Instant,
    pub call: &'static str,
    pub text: String,
}

/// What the traffic has seen.
#[derive(Clone, Default)]
pub struct Seen {
    pub calls: usize,
    pub slowest: Duration,
    pub failures: Vec<Failure>,
}

/// A value, and what it must be decrypted to.
type Kept = (Vec<u8>, EncryptResponse);

/// The traffic to one agent.
#[derive(Default)]
pub struct Traffic {
    ended: AtomicBool,
    seen: Mutex<Seen>,
    first: Mutex<Vec<Kept>>,
    last: Mutex<VecDeque<Kept>>,
}

impl Traffic {
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// How many calls have failed so far.
    pub fn failed(&self) -> usize {
        self.seen.lock().unwrap().failures.len()
    }

    /// The values that are still known, from the oldest on.
    pub fn kept(&self) -> Vec<Kept> {
        self.first.lock().unwrap().iter().chain(self.last.lock().unwrap().iter()).cloned().collect()
    }

    fn keep(&self, kept: Kept) {
        let mut first = self.first.lock().unwrap();
        if first.len() < FIRST {
            return first.push(kept);
        }
        let mut last = self.last.lock().unwrap();
        if last.len() == LAST {
            last.pop_front();
        }
        last.push_back(kept);
    }

    /// One of the kept values, another one each time.
    fn old(&self, round: usize) -> Option<Kept> {
        let (first, last) = (self.first.lock().unwrap(), self.last.lock().unwrap());
        let index = round.wrapping_mul(97) % (first.len() + last.len()).max(1);
        first.iter().chain(last.iter()).nth(index).cloned()
    }

    /// Notes how a call ended; the answer of a good one.
    fn note<T>(&self, call: &'static str, began: Instant, answer: Result<T, Status>) -> Option<T> {
        let mut seen = self.seen.lock().unwrap();
        seen.calls += 1;
        match answer {
            Ok(answer) => {
                seen.slowest = seen.slowest.max(began.elapsed());
                Some(answer)
            }
            Err(status) => {
                let text = format!("{:?}: {}", status.code(), status.message());
                seen.failures.push(Failure { began, ended: Instant::now(), call, text });
                None
            }
        }
    }

    /// Until its end.
    pub async fn run(&self, socket: &Path) {
        let mut kms = Kms::connect(socket).await.within(DEADLINE);
        let mut ticks = tokio::time::interval(PACE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for round in 0.. {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            ticks.tick().await;
            self.round(&mut kms, round).await;
        }
    }

    async fn round(&self, kms: &mut Kms, round: usize) {
        let began = Instant::now();
        let mut status = kms.status().await;
        if never_sent(&status) {
            status = kms.status().await;
        }
        let status = match status {
            // It stays ok in a short outage: otherwise API servers leave their load balancer.
            Ok(status) if status.healthz != "ok" => Err(Status::unknown(status.healthz)),
            other => other,
        };
        let announced = self.note("Status", began, status);

        let plaintext = format!("a DEK seed, number {round:013}").into_bytes();
        assert_eq!(plaintext.len(), 32);
        let began = Instant::now();
        let mut wrapped = kms.encrypt(&plaintext).await;
        let mut same = true;
        if never_sent(&wrapped) {
            // On another connection.
            same = false;
            wrapped = kms.encrypt(&plaintext).await;
        }
        let wrapped = self.note("Encrypt", began, wrapped);
        if let (Some(announced), Some(wrapped), true) = (&announced, &wrapped, same) {
            assert_eq!(wrapped.key_id, announced.key_id, "Status and Encrypt disagree on one connection");
        }
        let new = wrapped.map(|wrapped| (plaintext, wrapped));
        for (plaintext, wrapped) in new.iter().cloned().chain(self.old(round)) {
            let began = Instant::now();
            let mut unwrapped = kms.decrypt(&wrapped).await;
            if never_sent(&unwrapped) {
                unwrapped = kms.decrypt(&wrapped).await;
            }
            if let Some(bytes) = self.note("Decrypt", began, unwrapped) {
                assert_eq!(bytes, plaintext, "a wrong byte");
            }
        }
        if let Some(new) = new {
            self.keep(new);
        }
    }
}
