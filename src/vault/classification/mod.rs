//! What an answer means: the call, the status, the headers and the body give one of the classes of
//! tests/corpus/README.md, with a text and a remedy. A pure function; nothing else judges an answer.
//!
//! Must not send anything, and must not know tokens or addresses that are tried next. `call` is which call it is,
//! `body` the forms of a body, `rules` the ordered rules, `class` what they lead to, `words` the texts, `redirect`
//! where an answer sends to, `transport` the errors without an answer.

mod body;
mod call;
mod class;
mod explanation;
mod redirect;
mod rules;
mod transport;
mod words;

pub(super) use body::Contents;
pub(crate) use call::Call;
pub(super) use class::{Cause, Class};
pub(super) use explanation::{BareLogins, login_reason, may_use, mount_reason};
pub(super) use transport::{timeout, transport};
pub(super) use words::{not_vault, proxy_has_no_token, too_large};

use std::time::Duration;

use url::Url;

use crate::config::endpoint::Endpoint;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::telemetry::metrics::SUCCEEDED;
use redirect::Redirect;

/// How long to wait after a denied login. The role may be locked, for every node that uses it, and only another try
/// shows that the lock-out has ended. It ends 15 minutes after the last wrong login; the server does not count tries in
/// between, and one a minute costs little. A refusal that no lock-out hides is believed, and local KEKs are wiped, at
/// most 90 s after the last contact: the second try comes before that, also with the jitter.
const LOGIN_PAUSE: Duration = Duration::from_secs(60);

/// What came back, and for what.
pub(super) struct Received<'a> {
    pub call: Call,
    /// The base of the URL of the address, and the path below `/v1/`.
    pub base: &'a Url,
    pub path: &'a str,
    pub status: u16,
    /// The header of a redirect.
    pub location: Option<&'a str>,
    pub body: &'a [u8],
}

/// What an answer means.
#[derive(Clone, Debug)]
pub(super) struct Judgement {
    call: Call,
    cause: Cause,
    status: u16,
    /// The server's own text, where it sends to, or what is wrong with the key. Bounded, and on one line.
    text: String,
    /// Where it sends the same request to: the base of the URL.
    target: Option<Box<Url>>,
    contents: Contents,
}

impl Judgement {
    /// Judges an answer.
    pub(super) fn of(received: &Received<'_>) -> Self {
        let &Received { call, base, path, status, location, body } = received;
        let redirect = location.map(|location| Redirect::new(base, path, location));
        let health = || if call == Call::Health { body::health(status, body) } else { None };
        let mut contents = Contents::default();
        let (cause, text) = match (&redirect, health()) {
            (_, Some(cause)) => (cause, String::new()),
            (Some(redirect), None) => (redirect.cause(status), redirect.shown()),
            (None, None) if (200..300).contains(&status) => match call {
                Call::Health => (Cause::OtherServer, String::new()),
                _ => {
                    let (cause, text, found) = body::success(call, status, body);
                    contents = found;
                    (cause, text)
                }
            },
            (None, None) => match body::server_text(body) {
                Some(text) => (rules::of_the_server(call, status, &text), text.text),
                // The text of another server is not repeated: it may be a page.
                None => (rules::of_another(call, status, body::beginning(body)), String::new()),
            },
        };
        let target = redirect.and_then(|redirect| redirect.base).map(Box::new);
        Self { call, cause, status, text, target, contents }
    }

    /// What the body of a good answer holds.
    pub(super) fn into_contents(self) -> Contents {
        self.contents
    }

    /// Whether the answer is an error in the server's own form.
    pub(super) fn is_of_the_server(&self) -> bool {
        !self.text.is_empty()
    }

    /// Which of these addresses it sends to. A server behind a gateway does not know the prefix of its path there, so
    /// without a prefix, the scheme, the host and the port decide.
    pub(super) fn target_among<'a>(
        &self,
        mut known: impl Iterator<Item = &'a Endpoint> + Clone,
    ) -> Option<usize> {
        let target = self.target.as_deref()?;
        let same_place =
            |endpoint: &Endpoint| endpoint.socket().is_none() && endpoint.url().origin() == target.origin();
        let same_path = |endpoint: &Endpoint| endpoint.url().path() == target.path();
        let exact = known.clone().position(|endpoint| same_place(endpoint) && same_path(endpoint));
        exact.or_else(|| known.position(same_place).filter(|_| target.path() == "/"))
    }

    /// The same for a request without a token, which a proxy on the way was to add.
    pub(super) fn without_token(self) -> Self {
        match self.cause {
            Cause::TokenDropped => Self { cause: Cause::ProxyWithoutToken, ..self },
            _ => self,
        }
    }

    pub(super) fn class(&self) -> Class {
        self.cause.class()
    }

    pub(super) fn cause(&self) -> Cause {
        self.cause
    }

    /// Whether the policies allowed a request without its parameters, and only these were missed.
    pub(super) fn lacks_parameters(&self) -> bool {
        self.status == 400 && self.cause == Cause::BadRequest && self.text.starts_with("missing ")
    }

    /// The error of an answer that says nothing about the request: nobody processed it, and another address may.
    /// `None` when the server did what was asked, or refused it.
    pub(super) fn failure(&self, address: &str) -> Option<KeyServiceError> {
        let kind = self.class().kind().filter(|kind| kind.may_fail_over())?;
        let (message, remedy) = words::failure(self, address);
        Some(KeyServiceError::new(kind, message, remedy))
    }

    /// Whether its health says that the server was removed from its cluster.
    pub(super) fn is_of_removed_member(&self) -> bool {
        self.cause == Cause::RemovedNode
    }

    /// The same of a server whose health has said that it was removed from its cluster: to all other calls it only says
    /// that it is sealed.
    pub(super) fn of_removed_member(self) -> Self {
        match self.cause {
            Cause::ServerSealed => Self { cause: Cause::RemovedNode, ..self },
            _ => self,
        }
    }

    /// Whether the server has not replicated what the request needs. What it says of when to come back is a guess.
    pub(super) fn lags(&self) -> bool {
        self.cause == Cause::NotReplicated
    }

    /// How the call ended, as a metric label.
    pub(super) fn outcome(&self) -> &'static str {
        match self.class().kind() {
            None => SUCCEEDED,
            Some(kind) if kind.may_fail_over() || kind == ErrorKind::Internal => kind.name(),
            Some(_) => "refused",
        }
    }
}

/// An answer of a server that refuses the request, or that cannot do it with this key.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub judgement: Judgement,
    pub path: String,
    /// The index of the address that answered.
    pub address: usize,
    pub address_name: String,
}

impl Refusal {
    pub(super) fn class(&self) -> Class {
        self.judgement.class()
    }

    /// Whether the reason may be that the token is not valid any more: a lookup of the token shows it. For a lookup it
    /// means that the token is not valid, or that its policy denies the lookup.
    pub(super) fn may_be_the_token(&self) -> bool {
        self.judgement.cause.may_be_the_token()
    }

    /// The error of a refused Transit call. `what` says what was attempted, with the path.
    pub(super) fn of_transit(&self, what: &str) -> KeyServiceError {
        self.of_login(what, "put valid credentials into their file")
    }

    /// The error of a refused login, or of another call for the token. `remedy` is that for credentials that are wrong.
    pub(super) fn of_login(&self, what: &str, remedy: &str) -> KeyServiceError {
        let Judgement { call, cause, .. } = self.judgement;
        let kind = cause.kind().unwrap_or(ErrorKind::Internal);
        let own = words::remedy(call, cause, &self.path);
        let remedy = own.unwrap_or_else(|| remedy.to_owned().into());
        KeyServiceError::new(kind, words::refusal(&self.judgement, what, &self.address_name), remedy)
            .with_retry_after(cause.is_of_a_login().then_some(LOGIN_PAUSE))
    }

    /// The same refusal, with the reason that more answers have shown.
    pub(super) fn because(mut self, cause: Cause, text: Option<String>) -> Self {
        self.judgement.cause = cause;
        self.judgement.text = text.unwrap_or(self.judgement.text);
        self
    }

    /// The refusal of the token of a login a moment ago.
    pub(super) fn of_fresh_token(self) -> Self {
        match self.judgement.cause {
            Cause::TokenDenied => self.because(Cause::FreshTokenDenied, None),
            _ => self,
        }
    }

    /// Whether it is a login that the server denies without a reason.
    pub(super) fn is_denied_login(&self) -> bool {
        self.judgement.call == Call::Login && self.judgement.cause == Cause::LoginDenied
    }

    /// Whether the login is there, and only its secret is missing.
    pub(super) fn lacks_secret(&self) -> bool {
        self.judgement.status == 400 && self.judgement.text.contains(explanation::MISSING_SECRET)
    }

    /// Whether the server's words say that the token is good, and that its policies do not allow the call.
    pub(super) fn is_by_policy(&self) -> bool {
        self.judgement.cause == Cause::PermissionDenied && self.judgement.status == 403
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A locked role answers 403 to the right secret-id, too: it must be tried again, and not all the time.
    #[test]
    fn a_denied_login_is_tried_again_after_a_minute() {
        let refusal = |status, text: &str| {
            let (base, body) =
                (Url::parse("https://vault:8200").unwrap(), format!(r#"{{"errors":["{text}"]}}"#));
            let judgement = Judgement::of(&Received {
                call: Call::Login,
                base: &base,
                path: "auth/approle/login",
                status,
                location: None,
                body: body.as_bytes(),
            });
            let (path, address_name) = ("auth/approle/login".into(), "https://vault:8200".into());
            Refusal { judgement, path, address: 0, address_name }.of_login("login", "write a new secret-id")
        };
        let locked = refusal(403, "permission denied");
        assert_eq!(locked.kind(), ErrorKind::Denied);
        assert_eq!(locked.retry_after(), Some(LOGIN_PAUSE));
        let wrong = refusal(400, "invalid role or secret ID");
        assert_eq!((wrong.kind(), wrong.retry_after()), (ErrorKind::CredentialsRefused, None));
        assert_eq!(wrong.remedy(), "write a new secret-id");
    }
}
