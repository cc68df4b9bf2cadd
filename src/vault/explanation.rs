//! Asks for the reason of a refused Transit call, where the server's answer does not say it: what is mounted, as far as
//! the token may use it, and whether a policy allows the path without our parameters. None of it needs a right, creates
//! anything or uses a key.
//!
//! Must not decide what follows. What the answers mean is in `classification`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::Method;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::address::Address;
use super::classification::{Cause, Judgement, Refusal, may_use, mount_reason};
use super::token::Token;
use super::transit::TransitService;
use super::transport::{Request, Response};
use crate::clock::{Deadline, Purpose};

const MOUNTS: &str = "sys/internal/ui/mounts";
/// How long a reason is believed, for the same refusal of the same path. So a fault that lasts costs one or two requests
/// a minute.
const BELIEVED: Duration = Duration::from_secs(60);

/// A reason: the cause, and a text in place of the server's.
type Reason = (Cause, Option<String>);

/// The cause of a refusal, the reason that was found for it, if any, and when.
type Explained = (Cause, Option<Reason>, Instant);

/// The reasons of the last refusals, by path. A service has three paths.
#[derive(Default)]
pub(super) struct Explanations(Mutex<HashMap<String, Explained>>);

impl Explanations {
    /// The reason that was found a moment ago; `Some(None)` when none was found.
    fn find(&self, path: &str, cause: Cause) -> Option<Option<Reason>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, reason, at) = known.get(path)?;
        (*of == cause && at.elapsed() < BELIEVED).then(|| reason.clone())
    }

    fn remember(&self, path: &str, cause: Cause, reason: Option<Reason>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(path.to_owned(), (cause, reason, Instant::now()));
    }
}

impl TransitService {
    /// The refusal with its reason. Sends nothing for a call of the API server: the agent's own looks find the reason.
    pub(super) async fn explained(&self, refusal: Refusal, token: &Token, deadline: Deadline) -> Refusal {
        let cause = refusal.judgement.cause();
        let reason = match cause {
            // The session has made sure that a new token would be denied, too.
            Cause::TokenDenied if self.session.logs_in() => Some((Cause::FreshTokenDenied, None)),
            Cause::PermissionDenied | Cause::KeyMissing => match self.explanations.find(&refusal.path, cause)
            {
                Some(known) => known,
                None if deadline.purpose() == Purpose::ApiServer => None,
                None => {
                    let found = self.reason(&refusal, token, deadline).await;
                    if let Some(reason) = &found {
                        self.explanations.remember(&refusal.path, cause, reason.clone());
                    }
                    found.flatten()
                }
            },
            _ => None,
        };
        match reason {
            Some((cause, text)) => refusal.because(cause, text),
            None => refusal,
        }
    }

    /// The reason, if one is found. `None` when the server did not answer.
    async fn reason(&self, refusal: &Refusal, token: &Token, deadline: Deadline) -> Option<Option<Reason>> {
        let address = self.client.addresses.get(refusal.address)?;
        let is_missing = refusal.judgement.cause() == Cause::KeyMissing;
        let (namespace, mount) = (&self.vault.namespace, &self.vault.transit.mount);
        let listed = self.mounts(address, namespace, token, deadline).await?;
        if let Some((cause, text)) = mount_reason(mount, &listed, is_missing) {
            return Some(Some((cause, Some(text))));
        }
        let login = &self.vault.auth_namespace;
        if !is_missing
            && login != namespace
            && !may_use(mount, &listed)
            && may_use(mount, &self.mounts(address, login, token, deadline).await?)
        {
            let text = format!(
                "the token may use nothing in {}; its policies are for the Transit mount {mount} in {}, where it was made",
                shown(namespace),
                shown(login)
            );
            return Some(Some((Cause::NamespaceNotGranted, Some(text))));
        }
        // The servers look at the parameters after the policy, and at the plaintext before the key.
        let has_parameters = refusal.path.contains("/encrypt/") || refusal.path.contains("/decrypt/");
        if is_missing || !has_parameters {
            return Some(None);
        }
        let body = Zeroizing::new(b"{}".to_vec());
        let request = self.ask(Method::POST, &refusal.path, token, Some(&body));
        let (_, judgement) = self.sent(address, &request, deadline).await?;
        Some(judgement.lacks_parameters().then_some((Cause::ParametersDenied, None)))
    }

    /// The list of mounts that the token may use in a namespace; empty where the server tells none.
    async fn mounts(
        &self,
        address: &Address,
        namespace: &str,
        token: &Token,
        deadline: Deadline,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let request = Request { namespace, ..self.ask(Method::GET, MOUNTS, token, None) };
        let (response, _) = self.sent(address, &request, deadline).await?;
        Some(if response.status == 200 { response.body } else { Zeroizing::default() })
    }

    async fn sent(
        &self,
        address: &Address,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Option<(Response, Judgement)> {
        self.client.send(address, request, deadline).await.ok()
    }

    fn ask<'a>(
        &'a self,
        method: Method,
        path: &'a str,
        token: &'a Token,
        body: Option<&'a Zeroizing<Vec<u8>>>,
    ) -> Request<'a> {
        let namespace = &self.vault.namespace;
        Request { namespace, token: token.secret.as_ref(), body, ..Request::new(method, path) }
    }
}

/// A namespace in a sentence.
fn shown(namespace: &str) -> String {
    match namespace {
        "" => "the root namespace".to_owned(),
        name => format!("the namespace {name}"),
    }
}
