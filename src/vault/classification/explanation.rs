//! Why a call was refused, where one answer does not say it: what more answers show together. Pure.
//!
//! Must not send anything: `login` has the logins without a secret, and [`crate::vault::explanation`] sends.

use serde::Deserialize;
use serde_json::Value;

use super::class::Cause;
use super::{Judgement, Refusal};
use crate::untrusted;

/// What a server answers to the role-id of a role without a secret-id.
pub(super) const MISSING_SECRET: &str = "missing secret_id";

/// The answers to logins without a secret. No server counts them as wrong logins.
#[derive(Clone, Debug, Default)]
pub(in crate::vault) struct BareLogins {
    /// To one that names nobody.
    pub nameless: Option<Judgement>,
    /// To one that names the login, and has no secret.
    pub secretless: Option<Judgement>,
}

/// Why a login was refused. `locks` is whether a server locks logins of this method; `again` is whether the login was
/// denied about a minute ago, too.
///
/// A server looks at a lock-out before the secret, and at the entity and its rules after it. A login at a path where
/// nothing is mounted is denied, whatever it holds.
pub(in crate::vault) fn login_reason(
    refusal: &Refusal,
    bare: &BareLogins,
    locks: bool,
    again: bool,
) -> Cause {
    let is_denied = |judgement: &Judgement| judgement.status == 403 && judgement.is_of_the_server();
    let is_answered = |judgement: &Judgement| judgement.status != 403 && judgement.is_of_the_server();
    let (nameless, secretless) = (bare.nameless.as_ref(), bare.secretless.as_ref());
    match refusal.judgement.cause {
        Cause::LoginDenied if nameless.is_some_and(is_denied) => Cause::NoLoginMount,
        Cause::LoginDenied if nameless.is_some_and(is_answered) => match secretless {
            Some(answer) if is_denied(answer) => Cause::LockedOut,
            Some(answer) if is_answered(answer) => Cause::LoginForbidden,
            _ if locks && !again => Cause::PerhapsLockedOut,
            _ => Cause::LoginForbidden,
        },
        Cause::LoginDenied if locks && !again => Cause::PerhapsLockedOut,
        Cause::LoginDenied => Cause::LoginForbidden,
        Cause::CredentialsRefused
            if secretless.is_some_and(|answer| {
                answer.status == 400 && answer.is_of_the_server() && !answer.text.contains(MISSING_SECRET)
            }) =>
        {
            Cause::RoleIdUnknown
        }
        other => other,
    }
}

/// One mount, as the server shows it to whoever may use a part of it.
#[derive(Deserialize)]
struct Mount {
    #[serde(rename = "type")]
    kind: String,
}

/// The mounts that the token may use, by their paths with a slash at the end.
#[derive(Deserialize)]
struct Mounts {
    data: Secrets,
}

#[derive(Deserialize)]
struct Secrets {
    #[serde(default)]
    secret: std::collections::BTreeMap<String, Value>,
}

impl Mounts {
    /// What is mounted at `mount`.
    fn kind_at(&self, mount: &str) -> Option<String> {
        let at = |(path, value)| (str::trim_end_matches(path, '/') == mount).then_some(value);
        kind(self.data.secret.iter().map(|(path, value)| (path.as_str(), value)).find_map(at)?)
    }
}

fn kind(mount: &Value) -> Option<String> {
    Mount::deserialize(mount).ok().map(|mount| untrusted::text(&mount.kind))
}

/// Whether the token may use Transit at `mount`, from the list of mounts that it may use.
pub(in crate::vault) fn may_use(mount: &str, list: &[u8]) -> bool {
    let list: Option<Mounts> = serde_json::from_slice(list).ok();
    list.is_some_and(|list| list.kind_at(mount).as_deref() == Some("transit"))
}

/// Why a call below `mount` was refused to a token that is good, from the list of mounts that it may use. The text
/// replaces the server's. `None` when the mount is the right one, or the list has none.
pub(in crate::vault) fn mount_reason(mount: &str, list: &[u8], found: bool) -> Option<(Cause, String)> {
    let mounts: Mounts = serde_json::from_slice(list).ok()?;
    if let Some(kind) = mounts.kind_at(mount) {
        let cause = if found { Cause::OtherEngineAtKey } else { Cause::OtherEngine };
        return (kind != "transit")
            .then(|| (cause, format!("a mount of type {kind} is at {mount}, and not Transit")));
    }
    let is_transit = |value: &Value| kind(value).as_deref() == Some("transit");
    let others: Vec<String> = mounts
        .data
        .secret
        .iter()
        .filter(|(_, value)| is_transit(value))
        .map(|(path, _)| untrusted::text(path.trim_end_matches('/')))
        .take(3)
        .collect();
    let text = format!(
        "the token may use nothing at {mount}; its policies are for the Transit mount {}",
        others.join(", ")
    );
    (!others.is_empty()).then_some((Cause::MountNotGranted, text))
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::vault::classification::{Call, Received};

    fn judged(status: u16, text: &str) -> Judgement {
        Judgement::of(&Received {
            call: Call::Login,
            base: &Url::parse("https://vault:8200").unwrap(),
            path: "auth/approle/login",
            status,
            location: None,
            body: serde_json::json!({ "errors": [text] }).to_string().as_bytes(),
        })
    }

    fn reason(refused: (u16, &str), nameless: Option<(u16, &str)>, secretless: Option<(u16, &str)>) -> Cause {
        let refusal = Refusal {
            judgement: judged(refused.0, refused.1),
            path: "auth/approle/login".into(),
            address: 0,
            address_name: "https://vault:8200".into(),
        };
        let judged = |answer: Option<(u16, &str)>| answer.map(|(status, text)| judged(status, text));
        let bare = BareLogins { nameless: judged(nameless), secretless: judged(secretless) };
        login_reason(&refusal, &bare, true, false)
    }

    /// The words of OpenBao 2.7.2 and Vault 1.21.2.
    #[test]
    fn what_two_logins_without_a_secret_show() {
        let denied = (403, "permission denied");
        let wrong = (400, "invalid role or secret ID");
        let no_secret = Some((400, "missing secret_id"));
        for nameless in [(500, "missing role_id"), (500, "failed to determine alias name from login request")]
        {
            let there = Some(nameless);
            assert_eq!(reason(denied, there, Some(denied)), Cause::LockedOut);
            assert_eq!(reason(denied, there, no_secret), Cause::LoginForbidden);
            assert_eq!(reason(denied, there, None), Cause::PerhapsLockedOut);
        }
        assert_eq!(reason(denied, Some(denied), Some(denied)), Cause::NoLoginMount);
        assert_eq!(reason(denied, None, None), Cause::PerhapsLockedOut);
        assert_eq!(reason(wrong, None, no_secret), Cause::CredentialsRefused);
        assert_eq!(reason(wrong, None, Some(wrong)), Cause::RoleIdUnknown);
        assert_eq!(reason(wrong, None, None), Cause::CredentialsRefused);
    }

    #[test]
    fn the_list_of_mounts_tells_a_wrong_mount_from_a_missing_right() {
        let list =
            |mounts: Value| serde_json::json!({ "data": { "secret": mounts } }).to_string().into_bytes();
        let transit = serde_json::json!({ "transit/": { "type": "transit" }, "kv/": { "type": "kv" } });
        assert_eq!(mount_reason("transit", &list(transit.clone()), false), None);
        let reason = |mount, found| mount_reason(mount, &list(transit.clone()), found).unwrap();
        assert_eq!(reason("kv", false).0, Cause::OtherEngine);
        assert_eq!(reason("kv", true).0, Cause::OtherEngineAtKey);
        let (cause, text) = reason("transot", false);
        assert!(cause == Cause::MountNotGranted && text.ends_with("Transit mount transit"), "{text}");
        assert_eq!(mount_reason("transit", &list(serde_json::json!({})), false), None, "it may use nothing");
    }
}
