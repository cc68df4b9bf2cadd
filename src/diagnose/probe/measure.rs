//! The calls themselves, each answer checked against the contract.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use indicatif::ProgressBar;
use tokio::task::JoinSet;

use super::result::{Report, Samples};
use crate::kms::client::KmsClient;
use crate::proto::{DecryptRequest, EncryptRequest, StatusRequest};

/// Longest ciphertext and key_id that kube-apiserver accepts, in bytes.
const MAX_BYTES: usize = 1024;

/// Longest sum of annotation keys and values, in bytes.
const MAX_ANNOTATIONS: usize = 32 * 1024;

/// What one round trip took, and the key_id that it met.
pub(crate) struct RoundTrip {
    pub encrypt: Duration,
    pub decrypt: Duration,
    pub key_id: String,
    pub ciphertext: usize,
}

/// Asks for the status once, and notes what is wrong with it.
pub(crate) async fn status(client: &mut KmsClient, report: &mut Report) {
    let started = Instant::now();
    match client.status(StatusRequest {}).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            report.status_time = started.elapsed();
            if answer.version != "v2" {
                report.wrong(format!(
                    "Status answers version {:?}, kube-apiserver wants \"v2\"",
                    answer.version
                ));
            }
            if answer.healthz != "ok" {
                report.wrong(format!("Status is not ok: {}", answer.healthz));
            }
            if answer.key_id.is_empty() || answer.key_id.len() > MAX_BYTES {
                report.wrong(format!(
                    "the key_id has {} bytes, it must have 1 to {MAX_BYTES}",
                    answer.key_id.len()
                ));
            }
            report.version = answer.version;
            report.healthz = answer.healthz;
            report.key_id = answer.key_id;
        }
        Err(status) => report.wrong(format!("Status failed ({:?}): {}", status.code(), status.message())),
    }
}

/// Status, Encrypt and Decrypt on one connection; everything must be right.
pub(crate) async fn first_round_trip(client: &mut KmsClient) -> Result<RoundTrip, String> {
    let status = client.status(StatusRequest {}).await;
    let status = status.map_err(|status| format!("Status failed: {}", status.message()))?.into_inner();
    if status.healthz != "ok" {
        return Err(format!("Status is not ok: {}", status.healthz));
    }
    let trip = round_trip(client, 0).await?;
    match trip.key_id == status.key_id {
        true => Ok(trip),
        false => Err("Encrypt used another key_id than Status announced".into()),
    }
}

/// Runs `count` round trips, `concurrency` at once.
pub(crate) async fn round_trips(
    client: &KmsClient,
    count: u64,
    concurrency: u64,
    bar: &ProgressBar,
    report: &mut Report,
) {
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..concurrency.min(count) {
        let (next, mut client, bar) = (next.clone(), client.clone(), bar.clone());
        workers.spawn(async move {
            let mut samples = Samples::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return samples;
                }
                let mut trip = round_trip(&mut client, number).await;
                // Never sent, since the connection ended in an orderly way: grpc-go sends it again, too.
                if trip.as_ref().is_err_and(|error| error.contains("operation was canceled")) {
                    trip = round_trip(&mut client, number).await;
                }
                match trip {
                    Ok(trip) => samples.add(&trip),
                    Err(error) => samples.wrong(error),
                }
                bar.inc(1);
            }
        });
    }
    while let Some(samples) = workers.join_next().await {
        match samples {
            Ok(samples) => report.take(samples),
            Err(error) => report.wrong(format!("a worker of the probe failed: {error}")),
        }
    }
}

async fn round_trip(client: &mut KmsClient, number: u64) -> Result<RoundTrip, String> {
    let mut seed = [0; 32];
    rand::fill(&mut seed).map_err(|_| "the system gives no random bytes".to_owned())?;
    let uid = format!("kms-plugin-probe-{number}");
    let started = Instant::now();
    let wrapped = client.encrypt(EncryptRequest { plaintext: seed.to_vec(), uid: uid.clone() }).await;
    let wrapped = wrapped
        .map_err(|status| format!("Encrypt failed ({:?}): {}", status.code(), status.message()))?
        .into_inner();
    let encrypt = started.elapsed();
    if wrapped.ciphertext == seed {
        return Err("Encrypt gave the plaintext back: nothing is encrypted".into());
    }
    if wrapped.ciphertext.is_empty() || wrapped.ciphertext.len() > MAX_BYTES {
        return Err(format!(
            "the ciphertext has {} bytes, it must have 1 to {MAX_BYTES}",
            wrapped.ciphertext.len()
        ));
    }
    if wrapped.key_id.is_empty() || wrapped.key_id.len() > MAX_BYTES {
        return Err(format!(
            "Encrypt's key_id has {} bytes, it must have 1 to {MAX_BYTES}",
            wrapped.key_id.len()
        ));
    }
    let annotations: usize = wrapped.annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
    if annotations > MAX_ANNOTATIONS {
        return Err(format!("the annotations have {annotations} bytes, the limit is {MAX_ANNOTATIONS}"));
    }
    let (key_id, ciphertext) = (wrapped.key_id.clone(), wrapped.ciphertext.len());
    let request = DecryptRequest {
        ciphertext: wrapped.ciphertext,
        uid,
        key_id: wrapped.key_id,
        annotations: wrapped.annotations,
    };
    let started = Instant::now();
    let unwrapped = client.decrypt(request).await;
    let unwrapped = unwrapped
        .map_err(|status| format!("Decrypt failed ({:?}): {}", status.code(), status.message()))?
        .into_inner();
    let decrypt = started.elapsed();
    match unwrapped.plaintext == seed {
        true => Ok(RoundTrip { encrypt, decrypt, key_id, ciphertext }),
        false => Err("Decrypt gave other bytes back than were encrypted".into()),
    }
}
