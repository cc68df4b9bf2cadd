//! One call to Transit: its token, and what is done about a refusal.
//!
//! Must not know what is wrapped or unwrapped. `attempts` has the attempts at the addresses.

use std::fmt;
use std::time::Duration;

use hyper::Method;
use zeroize::Zeroizing;

use super::answer::{Answer, CallError};
use super::classification::{Class, Refusal};
use super::replication::Freshness;
use super::token::Token;
use super::transit::TransitService;
use super::transport::Request;
use crate::clock::{Deadline, Purpose};
use crate::key_service::{KeyScope, KeyServiceError};
use crate::retry::{doubled, jitter};

/// How often a call is tried again that a standby refuses because it does not have a version of the key yet: as often as
/// fits into a deadline of ten seconds.
const VERSION_LAGS: u32 = 25;
/// The same where it may not have the token yet, and how long after the login.
const TOKEN_LAGS: u32 = 3;
const YOUNG: Duration = Duration::from_secs(2);
/// First and longest pause before.
const LAG_PAUSE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(400));

/// How often in all a call is tried again after this refusal, since it may be that of a standby that is behind. The
/// agent's own looks come back by themselves.
fn most_lags(refusal: &Refusal, token: &Token, purpose: Purpose) -> u32 {
    match refusal.class() {
        Class::VersionAhead if purpose != Purpose::ApiServer => 1,
        Class::VersionAhead => VERSION_LAGS,
        _ if refusal.may_be_the_token() && token.born.elapsed() < YOUNG => TOKEN_LAGS,
        _ => 0,
    }
}

/// What is attempted, for error messages: most calls need no text.
#[derive(Clone, Copy)]
pub(super) enum Action<'a> {
    Using(&'a KeyScope),
    Reading(&'a KeyScope),
    Wrapping(&'a KeyScope, u32),
    Unwrapping(&'a KeyScope),
}

impl fmt::Display for Action<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Using(scope) => write!(out, "using {scope}"),
            Self::Reading(scope) => write!(out, "reading {scope}"),
            Self::Wrapping(scope, version) => write!(out, "wrapping with {scope} version {version}"),
            Self::Unwrapping(scope) => write!(out, "unwrapping with {scope}"),
        }
    }
}

/// One request to Transit, without the token.
pub(super) struct Call<'a> {
    pub action: Action<'a>,
    pub method: Method,
    pub path: &'a str,
    pub body: Option<&'a Zeroizing<Vec<u8>>>,
}

impl TransitService {
    fn request<'a>(&'a self, call: &Call<'a>, token: &'a Token) -> Request<'a> {
        Request {
            namespace: &self.scope.namespace,
            token: token.secret.as_ref(),
            body: call.body,
            ..Request::new(call.method.clone(), call.path)
        }
    }

    /// Sends a call with the held token. After a 403, checks whether the token is still valid. If not, retries once
    /// with a new one. What a standby refuses that is behind is tried again, at the active server where it can be asked.
    pub(super) async fn call(
        &self,
        call: &Call<'_>,
        order: Vec<usize>,
        deadline: Deadline,
    ) -> Result<Answer, KeyServiceError> {
        let mut token = self.session.token(deadline).await?;
        let mut logged_in = false;
        let (mut order, mut lags) = (order, 0);
        // Each round returns, excludes an address, waits for a standby, or uses the one login: the loop ends.
        loop {
            let request = self.request(call, &token);
            let freshness = match lags {
                0 => Freshness::of(request.call, deadline.purpose()),
                _ => Freshness::Active,
            };
            let refusal = match self.client.call_in(order.clone(), freshness, &request, deadline).await {
                Ok(answer) => {
                    self.session.record_success(&token, call.path);
                    return Ok(answer);
                }
                Err(CallError::Failed(error)) => return Err(error),
                Err(CallError::Refused(refusal)) => refusal,
            };
            let pause = doubled(LAG_PAUSE, lags).mul_f64(1.0 + jitter() / 2.0);
            if lags < most_lags(&refusal, &token, deadline.purpose()) && pause * 2 < deadline.remaining() {
                tokio::time::sleep(pause).await;
                lags += 1;
                order.retain(|index| *index != refusal.address);
                order.push(refusal.address);
                continue;
            }
            if !refusal.may_be_the_token() {
                if refusal.class() != Class::OwnFault {
                    // The server has looked at the key: it accepts the token.
                    self.session.record_success(&token, call.path);
                }
                return Err(self
                    .explained(refusal, &token, deadline)
                    .await
                    .of_transit(&call.action.to_string()));
            }
            if self.client.is_other_cluster(refusal.address, deadline).await {
                order = self.client.order();
                continue;
            }
            let dead = refusal.class() == Class::TokenDead;
            match self.session.after_refusal(&token, call.path, dead, deadline).await? {
                Some(newer) if !logged_in => token = newer,
                _ => {
                    return Err(self
                        .explained(refusal, &token, deadline)
                        .await
                        .of_transit(&call.action.to_string()));
                }
            }
            logged_in = true;
        }
    }

    /// One attempt at one address. A standby there asks the active server, where it can.
    pub(super) async fn active(
        &self,
        index: usize,
        call: &Call<'_>,
        token: &Token,
        deadline: Deadline,
    ) -> Result<Answer, CallError> {
        self.client.attempt_at(index, Freshness::Active, &self.request(call, token), deadline).await
    }
}
