//! The calls, with their times. Each answer is checked against the contract of KMS v2.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use aws_lc_rs::rand;
use tokio::task::JoinSet;

use super::ProbeOptions;
use super::error::{MAX_ANNOTATIONS, MAX_BYTES, ProbeError};
use super::result::{Report, RoundTrip, Samples};
use crate::kms::client::KmsClient;
use crate::proto::{DecryptRequest, EncryptRequest, StatusRequest};

/// Calls Status once, and reports what is wrong with the answer.
pub(super) async fn status(client: &mut KmsClient, report: &mut Report) {
    let started = Instant::now();
    let answer = match client.status(StatusRequest {}).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return report.wrong(ProbeError::call("Status")(status).to_string()),
    };
    report.status_time = started.elapsed();
    if answer.version != "v2" {
        report.wrong(ProbeError::Version(answer.version.clone()).to_string());
    }
    if answer.healthz != "ok" {
        report.wrong(ProbeError::NotOk(answer.healthz.clone()).to_string());
    }
    if let Err(error) = has_good_length("Status", "key_id", answer.key_id.len()) {
        report.wrong(error.to_string());
    }
    report.version = answer.version;
    report.healthz = answer.healthz;
    report.key_id = answer.key_id;
}

/// Status, Encrypt and Decrypt on one connection.
///
/// # Errors
/// When one of them fails, or breaks the contract.
pub(crate) async fn first_round_trip(client: &mut KmsClient) -> Result<RoundTrip, ProbeError> {
    let status = client.status(StatusRequest {}).await.map_err(ProbeError::call("Status"))?.into_inner();
    if status.healthz != "ok" {
        return Err(ProbeError::NotOk(status.healthz));
    }
    let trip = round_trip(client, 0).await?;
    if trip.key_id == status.key_id { Ok(trip) } else { Err(ProbeError::OtherKey) }
}

/// Runs the round trips, `concurrency` at the same time.
pub(super) async fn round_trips(
    client: &KmsClient,
    options: &ProbeOptions,
    on_round_trip: impl Fn() + Clone + Send + 'static,
    report: &mut Report,
) {
    let count = options.count;
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..options.concurrency.min(count) {
        let (next, mut client, on_round_trip) = (next.clone(), client.clone(), on_round_trip.clone());
        workers.spawn(async move {
            let mut samples = Samples::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return samples;
                }
                let mut trip = round_trip(&mut client, number).await;
                // grpc-go retries such a call, too.
                if trip.as_ref().is_err_and(ProbeError::was_not_sent) {
                    trip = round_trip(&mut client, number).await;
                }
                match trip {
                    Ok(trip) => samples.add(&trip),
                    Err(error) => samples.wrong(error.to_string()),
                }
                on_round_trip();
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

async fn round_trip(client: &mut KmsClient, number: u64) -> Result<RoundTrip, ProbeError> {
    let mut seed = [0; 32];
    rand::fill(&mut seed).map_err(|_| ProbeError::NoRandomBytes)?;
    let uid = format!("kms-plugin-probe-{number}");
    let started = Instant::now();
    let wrapped = client.encrypt(EncryptRequest { plaintext: seed.to_vec(), uid: uid.clone() }).await;
    let wrapped = wrapped.map_err(ProbeError::call("Encrypt"))?.into_inner();
    let encrypt = started.elapsed();
    if wrapped.ciphertext == seed {
        return Err(ProbeError::Plaintext);
    }
    has_good_length("Encrypt", "ciphertext", wrapped.ciphertext.len())?;
    has_good_length("Encrypt", "key_id", wrapped.key_id.len())?;
    let annotations: usize = wrapped.annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
    if annotations > MAX_ANNOTATIONS {
        return Err(ProbeError::Annotations(annotations));
    }
    let (key_id, ciphertext) = (wrapped.key_id.clone(), wrapped.ciphertext.len());
    let request = DecryptRequest {
        ciphertext: wrapped.ciphertext,
        uid,
        key_id: wrapped.key_id,
        annotations: wrapped.annotations,
    };
    let started = Instant::now();
    let unwrapped = client.decrypt(request).await.map_err(ProbeError::call("Decrypt"))?.into_inner();
    let decrypt = started.elapsed();
    match unwrapped.plaintext == seed {
        true => Ok(RoundTrip { encrypt, decrypt, key_id, ciphertext }),
        false => Err(ProbeError::OtherBytes),
    }
}

fn has_good_length(call: &'static str, what: &'static str, bytes: usize) -> Result<(), ProbeError> {
    if (1..=MAX_BYTES).contains(&bytes) { Ok(()) } else { Err(ProbeError::Length { call, what, bytes }) }
}
