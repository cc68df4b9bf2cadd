//! The forms of a body: a list of errors, the envelope of an answer, `sys/health`, or none of them.
//!
//! Must not keep a secret: of an answer with data it only sees whether the fields are there.

use std::ops::Range;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::call::Call;
use super::class::Cause;
use crate::secret::JsonText;
use crate::untrusted;
use crate::vault::key::KeyData;
use crate::vault::token;

/// How much of a body in another form is looked at, in bytes.
const MAX_LOOKED_AT: usize = 1024;

#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}

/// The envelope of an answer. Every answer of the API has a `request_id`, also one without data.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "request_id")]
    _request_id: IgnoredAny,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// The server's own text, bounded and on one line.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerText {
    pub text: String,
    /// Whether the text was a list with a heading, such as "1 error occurred:". A server lists what its policies say. A
    /// token that it does not accept at all gets a text without a heading.
    pub is_list: bool,
}

/// The text of an error's body, or `None` when the body is not in the server's form.
pub(super) fn server_text(body: &[u8]) -> Option<ServerText> {
    if let Ok(Errors { errors }) = serde_json::from_slice(body) {
        return Some(bounded(&errors.join("; ")));
    }
    let envelope: Envelope = serde_json::from_slice(body).ok()?;
    Some(bounded(&envelope.warnings.unwrap_or_default().join("; ")))
}

/// The beginning of a body in another form.
pub(super) fn beginning(body: &[u8]) -> String {
    String::from_utf8_lossy(body.get(..MAX_LOOKED_AT).unwrap_or(body)).into_owned()
}

/// A server's text, as [`untrusted`] allows it. Go formats a list of errors with a heading and bullets, which hold no
/// information.
fn bounded(text: &str) -> ServerText {
    let mut is_list = false;
    let plain = text.replace("\n\t* ", "; ");
    let mut plain = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    for heading in [" error occurred:; ", " errors occurred:; "] {
        if let Some((count, rest)) = plain.split_once(heading)
            && count.bytes().all(|byte| byte.is_ascii_digit())
        {
            plain = rest.to_owned();
            is_list = true;
        }
    }
    ServerText { text: untrusted::text(&plain), is_list }
}

/// The parts of `sys/health` that decide.
#[derive(Deserialize)]
struct Health {
    initialized: bool,
    sealed: bool,
    #[serde(default)]
    replication_dr_mode: Option<String>,
    #[serde(default)]
    removed_from_cluster: Option<bool>,
}

/// The cause of an answer of `sys/health`, or `None` when the body is not one. The status depends on the query, which
/// a gateway may drop; the body says the same for every query.
pub(super) fn health(status: u16, body: &[u8]) -> Option<Cause> {
    let health: Health = serde_json::from_slice(body).ok()?;
    Some(match status {
        _ if health.removed_from_cluster == Some(true) => Cause::RemovedNode,
        530 => Cause::RemovedNode,
        _ if health.replication_dr_mode.as_deref() == Some("secondary") => Cause::DrSecondary,
        472 => Cause::DrSecondary,
        _ if !health.initialized => Cause::NotInitialised,
        _ if health.sealed => Cause::ServerSealed,
        // A standby that cannot reach the active node. One that can answers 429 or 473, and forwards.
        474 => Cause::NoActiveNode,
        200..=299 | 429 | 473 => Cause::Done,
        _ => Cause::ServerFailed,
    })
}

/// An answer with a status of success, where `D` is what the call reads. `null` and a missing field are the same.
#[derive(Deserialize)]
struct Success<'a, D> {
    #[serde(default)]
    warnings: Option<IgnoredAny>,
    // Without the function, serde asks for a default of `D`.
    #[serde(default = "Option::default")]
    data: Option<D>,
    #[serde(borrow, default)]
    auth: Option<Auth<'a>>,
    #[serde(default)]
    wrap_info: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Auth<'a> {
    #[serde(borrow, default)]
    client_token: Option<JsonText<'a>>,
    #[serde(default)]
    lease_duration: Option<u64>,
    #[serde(default)]
    mfa_requirement: Option<IgnoredAny>,
}

/// What a good answer holds, beside its meaning.
#[derive(Clone, Debug, Default)]
pub(in crate::vault) struct Contents {
    /// Whether it is known to warn of nothing.
    pub silent: bool,
    /// Where the ciphertext or the plaintext is in the body: its beginning and its end. Small numbers, since a refusal
    /// is moved a lot; an answer has at most some MiB.
    value: Option<(u32, u32)>,
}

impl Contents {
    pub(in crate::vault) fn range(&self) -> Option<Range<usize>> {
        let (begin, end) = self.value?;
        Some(usize::try_from(begin).ok()?..usize::try_from(end).ok()?)
    }
}

/// The fields of `data` that the calls read.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default)]
    ciphertext: Option<JsonText<'a>>,
    #[serde(borrow, default)]
    plaintext: Option<JsonText<'a>>,
    #[serde(default)]
    ttl: Option<IgnoredAny>,
    #[serde(default)]
    creation_path: Option<IgnoredAny>,
    #[serde(default)]
    secret_id: Option<IgnoredAny>,
}

/// The cause of an answer with a status of success, and a text for it: success is what the body says.
pub(super) fn success(call: Call, status: u16, body: &[u8]) -> (Cause, String, Contents) {
    let mut contents = Contents::default();
    let cause = match call {
        Call::Revoke => Cause::Done,
        // Without an answer, another engine has done something else: a KV mount stores the plaintext.
        Call::Encrypt | Call::Decrypt | Call::ReadKey if status == 204 => Cause::OtherEngine,
        Call::ReadKey => match parse::<KeyData>(body) {
            Ok(Success { data: Some(key), .. }) => match key.problem() {
                Some((cause, text)) => return (cause, text, contents),
                None => Cause::Done,
            },
            other => without_data(other.ok().as_ref()),
        },
        Call::Login | Call::Renew => match parse::<IgnoredAny>(body) {
            Ok(answer) => of_auth(call, answer.auth.as_ref()),
            Err(_) => Cause::OtherServer,
        },
        _ => match parse::<Fields<'_>>(body) {
            Ok(Success { data: Some(fields), warnings, .. }) if has_answer(call, &fields) => {
                let value = match call {
                    Call::Encrypt => fields.ciphertext,
                    Call::Decrypt => fields.plaintext,
                    _ => None,
                };
                contents = Contents { silent: warnings.is_none(), value: within(body, value) };
                Cause::Done
            }
            other => without_data(other.ok().as_ref()),
        },
    };
    (cause, String::new(), contents)
}

/// Where `value` is in `body`; `None` when it is a copy, because the server has escaped a character of it.
fn within(body: &[u8], value: Option<JsonText<'_>>) -> Option<(u32, u32)> {
    let text = value?.borrowed()?;
    let begin = (text.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    Some((u32::try_from(begin).ok()?, u32::try_from(begin + text.len()).ok()?))
}

fn parse<'a, D: Deserialize<'a>>(body: &'a [u8]) -> serde_json::Result<Success<'a, D>> {
    // Looking at the whole body once costs less than looking at each string in it.
    match std::str::from_utf8(body) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(body),
    }
}

fn without_data<D>(answer: Option<&Success<'_, D>>) -> Cause {
    match answer {
        Some(Success { data: None, wrap_info: Some(_), .. }) => Cause::ControlGroup,
        _ => Cause::OtherServer,
    }
}

fn of_auth(call: Call, auth: Option<&Auth<'_>>) -> Cause {
    match auth {
        Some(Auth { lease_duration: Some(_), .. }) if call == Call::Renew => Cause::Done,
        Some(Auth { client_token: Some(token), lease_duration: Some(_), .. })
            if token::is_well_formed(token.expose()) =>
        {
            Cause::Done
        }
        Some(Auth { mfa_requirement: Some(_), .. }) => Cause::SecondFactor,
        Some(Auth { client_token: Some(_), .. }) => Cause::NoToken,
        _ => Cause::OtherServer,
    }
}

/// Whether the fields have what the call asked for.
fn has_answer(call: Call, fields: &Fields<'_>) -> bool {
    match call {
        Call::Encrypt => fields.ciphertext.is_some(),
        Call::Decrypt => fields.plaintext.is_some(),
        Call::Lookup => fields.ttl.is_some(),
        Call::WrappingLookup => fields.creation_path.is_some(),
        Call::Unwrap => fields.secret_id.is_some(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_text_is_bounded_and_on_one_line() {
        let text = |errors: &[&str]| {
            server_text(serde_json::json!({ "errors": errors }).to_string().as_bytes()).unwrap().text
        };
        assert_eq!(text(&["1 error occurred:\n\t* permission denied\n\n"]), "permission denied");
        assert_eq!(
            text(&["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]),
            "permission denied; invalid token"
        );
        assert_eq!(text(&["one", "two"]), "one; two");
        assert_eq!(text(&["a\u{1b}[31mred\r\nline\0\u{7f}\u{85}"]), "a\u{fffd}[31mred line\u{fffd}\u{fffd}");
        assert_eq!(text(&["é".repeat(4000).as_str()]).chars().count(), untrusted::MAX_TEXT);
        assert!(
            server_text(br#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#).unwrap().is_list
        );
        assert!(!server_text(br#"{"errors":["permission denied"]}"#).unwrap().is_list);
        assert!(server_text(b"<html>forbidden</html>").is_none());
        assert!(server_text(br#"{"errors":[{"code":"DENIED"}]}"#).is_none(), "another server's errors");
        assert!(server_text(br#"{"message":"forbidden"}"#).is_none());
    }

    #[test]
    fn health_is_what_the_body_says() {
        let body = |more: &str| format!(r#"{{"initialized":true,"sealed":false{more}}}"#).into_bytes();
        assert_eq!(health(200, &body("")), Some(Cause::Done));
        assert_eq!(health(429, &body("")), Some(Cause::Done), "a standby that a balancer asks");
        assert_eq!(health(474, &body("")), Some(Cause::NoActiveNode));
        let secondary = body(r#","replication_dr_mode":"secondary""#);
        assert_eq!(health(200, &secondary), Some(Cause::DrSecondary), "a gateway has changed the status");
        assert_eq!(health(200, br#"{"status":"UP"}"#), None);
    }

    #[test]
    fn what_a_call_asked_for_is_found_in_the_body_without_a_copy() {
        for (call, field) in [(Call::Encrypt, "ciphertext"), (Call::Decrypt, "plaintext")] {
            let found = |value: &str| {
                let body = format!(r#"{{"request_id":"r","data":{{"{field}":"{value}","key_version":1}}}}"#);
                let (cause, _, contents) = success(call, 200, body.as_bytes());
                assert_eq!(cause, Cause::Done);
                contents.range().map(|range| body[range].to_owned())
            };
            assert_eq!(found("vault:v1:AAAA").as_deref(), Some("vault:v1:AAAA"));
            assert_eq!(found(r"vault:v1:AA\u0041A"), None, "an escaped one is read again");
        }
    }

    #[test]
    fn a_login_without_a_usable_token_is_none() {
        let login = |token: serde_json::Value| {
            let body = serde_json::json!({ "auth": { "client_token": token, "lease_duration": 60 } });
            success(Call::Login, 200, body.to_string().as_bytes()).0
        };
        assert_eq!(login("hvs.CAESIJ".into()), Cause::Done);
        for token in ["", " ", "hvs CAES", "hvs.\n", "\u{7f}", "hvs.é", &"x".repeat(20_000)] {
            assert_eq!(login(token.into()), Cause::NoToken, "{token:?}");
        }
        for missing in [serde_json::Value::Null, 7.into(), serde_json::json!(["a"])] {
            assert_eq!(login(missing.clone()), Cause::OtherServer, "{missing}");
        }
        assert_eq!(Cause::NoToken.class().kind(), Some(crate::key_service::ErrorKind::NotVault));
    }
}
