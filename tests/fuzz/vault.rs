//! The answers of a key service.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a target that finds something panics

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::token::{Lease, Token};
use super::{Address, Budget, Request, Response, TransitService, Transport};
use crate::clock::Deadline;
use crate::config::endpoint::Endpoint;
use crate::config::vault::{Auth, Method, Vault};
use crate::key_service::{KeyService as _, KeyServiceError};
use crate::secret::Secret;
use crate::telemetry::metrics::Metrics;

/// No call waits for it: each answer comes at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers everything in one way.
struct Server {
    status: u16,
    location: Option<String>,
    body: Vec<u8>,
}

#[async_trait]
impl Transport for Server {
    async fn send(&self, _: &Address, _: &Request<'_>, _: Deadline) -> Result<Response, KeyServiceError> {
        Ok(Response {
            status: self.status,
            location: self.location.clone(),
            retry_after: None,
            index: None,
            quota: None,
            body: Zeroizing::new(self.body.clone()),
        })
    }
}

fn service(server: Server) -> TransitService {
    let address = Endpoint::parse("http://127.0.0.1:8200", true).expect("an address");
    let vault = Vault::example([address], Auth { mount: "cert".into(), method: Method::Cert { role: None } });
    let service = TransitService::new(&vault, Metrics::default(), Arc::new(server), Budget::unlimited());
    let service = service.expect("no files are read");
    service.session.hold(token());
    service
}

fn token() -> Token {
    let now = Instant::now();
    Token {
        secret: Some(Secret::new("s.AAAAAAAAAAAAAAAAAAAAAAAA".into())),
        generation: 1,
        born: now,
        lease: Lease::new(now, Some(Duration::from_secs(60)), true),
        num_uses: 0,
    }
}

/// What must hold of the text of an error, whatever the server wrote.
fn judge<T>(result: Result<T, KeyServiceError>) {
    if let Err(error) = result {
        let text = error.to_string();
        assert!(!text.chars().any(crate::untrusted::is_hidden), "{text:?}");
        assert!(text.chars().count() <= 2000, "{} characters", text.chars().count());
    }
}

thread_local! {
    /// One for all inputs: to make one costs more than a call. Its clock goes on by itself when a call waits to try
    /// again.
    static RUNTIME: Runtime =
        Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
}

/// One answer to one call: two bytes for the status, one for the call, and the body. A redirect has the body as its
/// place, too.
pub(crate) fn answer(input: &[u8]) {
    let Some((&[high, low, kind], body)) = input.split_first_chunk() else { return };
    let status = 100 + u16::from_be_bytes([high, low]) % 500;
    let location = (300..400).contains(&status).then(|| String::from_utf8_lossy(body).into_owned());
    let server = Server { status, location, body: body.to_vec() };
    let call = async {
        let service = service(server);
        let deadline = Deadline::after(PATIENCE);
        match kind % 7 {
            0 => judge(service.wrap(1, &[0; 32], &[], deadline).await),
            1 => judge(service.unwrap(b"vault:v1:AAAA", &[], deadline).await),
            2 => judge(service.describe(0, deadline).await),
            3 => judge(service.reachable(deadline).await),
            4 => judge(service.session.lookup(&token(), deadline).await),
            5 => judge(service.session.renew(&token()).await),
            _ => judge(service.session.log_in_once(deadline).await),
        }
    };
    RUNTIME.with(|runtime| runtime.block_on(call));
}
