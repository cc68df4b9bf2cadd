//! The rules, in order: the call, the status and the server's words give the cause. The first rule that fits decides.
//!
//! The words are those of OpenBao 2.x and of Vault, as recorded in tests/corpus, or as their sources have them. Where
//! no words are known, the status decides.

use std::ops::RangeInclusive;

use super::body::ServerText;
use super::call::Call;
use super::class::Cause;

/// What a rule asks of the server's text.
enum Words {
    Any,
    /// No text: an empty list of errors.
    None,
    /// A list with a heading, such as "1 error occurred:".
    List,
    /// All of these are in the text.
    All(&'static [&'static str]),
    /// The text begins with this.
    Start(&'static str),
}

struct Rule {
    /// Empty means every call.
    calls: &'static [Call],
    status: RangeInclusive<u16>,
    words: Words,
    cause: Cause,
}

impl Rule {
    fn fits(&self, call: Call, status: u16, ServerText { text, is_list }: &ServerText) -> bool {
        let words = match self.words {
            Words::List => *is_list,
            Words::Any => true,
            Words::None => text.is_empty(),
            Words::All(words) => words.iter().all(|word| text.contains(word)),
            Words::Start(word) => text.starts_with(word),
        };
        words && self.status.contains(&status) && (self.calls.is_empty() || self.calls.contains(&call))
    }
}

const fn rule(calls: &'static [Call], status: RangeInclusive<u16>, words: Words, cause: Cause) -> Rule {
    Rule { calls, status, words, cause }
}

const EVERY: &[Call] = &[];
const HEALTH: &[Call] = &[Call::Health];
const LOGIN: &[Call] = &[Call::Login];
/// The calls that present a wrapping token. It is a credential.
const WRAPPING: &[Call] = &[Call::WrappingLookup, Call::Unwrap];
const RENEW: &[Call] = &[Call::Renew];
/// The calls of which a refusal only means that the agent goes on without.
const OPTIONAL: &[Call] = &[Call::Lookup, Call::Capabilities, Call::Revoke, Call::Mounts];
const TRANSIT: &[Call] = &[Call::Encrypt, Call::Decrypt, Call::ReadKey];
const CRYPT: &[Call] = &[Call::Encrypt, Call::Decrypt];
const DECRYPT: &[Call] = &[Call::Decrypt];
const READ_KEY: &[Call] = &[Call::ReadKey];

const REFUSED: RangeInclusive<u16> = 400..=499;
const FAILED: RangeInclusive<u16> = 500..=599;
const EITHER: RangeInclusive<u16> = 400..=599;

use Words::{All, Any, List, None as Empty, Start};

/// For answers in the server's own form: `{"errors": […]}`, or the envelope of an answer without data.
#[rustfmt::skip]
static OF_THE_SERVER: &[Rule] = &[
    // What an administrator did to the namespace is a refusal, although the status is 503.
    rule(EVERY, EITHER, All(&["namespace", "locked"]), Cause::NamespaceLocked),
    // The state of the node.
    rule(EVERY, EITHER, All(&["disabled in replication DR secondary mode"]), Cause::DrSecondary),
    rule(EVERY, 472..=472, Any, Cause::DrSecondary),
    rule(EVERY, EITHER, All(&["Vault is not initialized"]), Cause::NotInitialised),
    rule(EVERY, 503..=503, All(&["sealed"]), Cause::ServerSealed),
    rule(EVERY, FAILED, All(&["active cluster node not found"]), Cause::NoActiveNode),
    rule(EVERY, FAILED, All(&["no active Vault instance"]), Cause::NoActiveNode),
    rule(EVERY, FAILED, All(&["node is not active"]), Cause::NoActiveNode),
    rule(EVERY, FAILED, All(&["Vault is in standby mode"]), Cause::NoActiveNode),
    // OpenBao from 2.7: a standby that is behind the index of the request. A quota has a text.
    rule(EVERY, 429..=429, Empty, Cause::NotReplicated),
    rule(EVERY, 429..=429, Any, Cause::QuotaExceeded),
    rule(EVERY, 503..=503, All(&["overloaded"]), Cause::Overloaded),
    rule(EVERY, 412..=412, Any, Cause::NotReplicated),
    // A login has no token: the path is not one of a login. Every other call has one: it was lost on the way.
    rule(LOGIN, 400..=400, All(&["missing client token"]), Cause::NoLoginPath),
    rule(EVERY, 400..=400, All(&["missing client token"]), Cause::TokenDropped),
    // Requests that are wrong in themselves.
    rule(EVERY, 413..=413, Any, Cause::BadRequest),
    rule(EVERY, 400..=500, Start("failed to decode JSON input"), Cause::BadRequest),
    rule(EVERY, 400..=500, Start("invalid character"), Cause::BadRequest),
    rule(CRYPT, 400..=400, All(&["missing plaintext"]), Cause::BadRequest),
    rule(CRYPT, 400..=400, All(&["missing ciphertext"]), Cause::BadRequest),
    rule(CRYPT, 400..=400, Start("illegal base64"), Cause::BadRequest),
    // Nothing of what the agent expects is at the path. `sys/health` is on every server: a gateway blocks it.
    rule(HEALTH, REFUSED, Any, Cause::OtherServer),
    rule(EVERY, 404..=404, All(&["namespace not found"]), Cause::NamespaceMissing),
    rule(EVERY, 404..=404, All(&["no handler for route"]), Cause::MountMissing),
    rule(EVERY, 404..=405, All(&["unsupported path"]), Cause::OtherEngine),
    rule(EVERY, 404..=405, All(&["unsupported operation"]), Cause::OtherEngine),
    rule(EVERY, 404..=404, All(&["versioned K/V"]), Cause::OtherEngine),
    rule(READ_KEY, 404..=404, Empty, Cause::KeyMissing),
    // No call but the read of a key gets this from the API: the path does not lead there.
    rule(EVERY, 404..=404, Empty, Cause::OtherServer),
    rule(LOGIN, 404..=405, Any, Cause::OtherEngine),
    rule(TRANSIT, 404..=405, Any, Cause::OtherEngine),
    // Credentials.
    rule(LOGIN, 400..=400, All(&["no client certificate found"]), Cause::NoClientCertificate),
    rule(LOGIN, 400..=400, All(&["client certificate must be supplied"]), Cause::NoClientCertificate),
    rule(LOGIN, 400..=400, All(&["tls connection required"]), Cause::NoTls),
    rule(LOGIN, 400..=400, All(&["CIDR restrictions"]), Cause::WrongNetwork),
    rule(LOGIN, 400..=400, All(&["role", "could not be found"]), Cause::RoleMissing),
    rule(LOGIN, 400..=400, All(&["invalid role name"]), Cause::RoleMissing),
    rule(LOGIN, 400..=400, Any, Cause::CredentialsRefused),
    rule(LOGIN, 500..=500, All(&["failed to verify client's certificate"]), Cause::CredentialsRefused),
    rule(LOGIN, REFUSED, Any, Cause::LoginDenied),
    rule(WRAPPING, 400..=400, Any, Cause::CredentialsRefused),
    rule(WRAPPING, 403..=403, All(&["invalid token"]), Cause::CredentialsRefused),
    rule(WRAPPING, REFUSED, Any, Cause::LoginDenied),
    // Rights.
    rule(EVERY, 403..=403, All(&["invalid token"]), Cause::TokenUnknown),
    rule(EVERY, 401..=401, Any, Cause::PermissionDenied),
    rule(EVERY, 403..=403, List, Cause::PermissionDenied),
    rule(EVERY, 403..=403, Any, Cause::TokenDenied),
    rule(RENEW, REFUSED, Any, Cause::NotRenewable),
    rule(OPTIONAL, REFUSED, Any, Cause::PermissionDenied),
    // The key, its versions and the ciphertext.
    rule(TRANSIT, 400..=400, All(&["higher than the latest key version"]), Cause::VersionAhead),
    rule(TRANSIT, 400..=400, All(&["version is too new"]), Cause::VersionAhead),
    rule(TRANSIT, 400..=400, All(&["less than the minimum encryption key version"]), Cause::BelowMinEncryption),
    rule(TRANSIT, 400..=400, All(&["no such key version"]), Cause::BelowMinEncryption),
    rule(TRANSIT, 400..=400, All(&["too old"]), Cause::BelowMinDecryption),
    rule(TRANSIT, 400..=400, All(&["key not found"]), Cause::KeyMissing),
    rule(TRANSIT, 400..=400, All(&["unknown key"]), Cause::KeyMissing),
    rule(TRANSIT, 400..=400, All(&["soft-delet"]), Cause::KeySoftDeleted),
    rule(TRANSIT, 400..=400, All(&["not supported for key type"]), Cause::KeyUnusable),
    rule(TRANSIT, 400..=400, All(&["key derivation"]), Cause::KeyUnusable),
    rule(DECRYPT, 400..=400, Any, Cause::BadCiphertext),
    // Words that nobody knows. Whoever refuses us says 403; an answer of a node's state once looked like this.
    rule(EVERY, REFUSED, Any, Cause::BadRequest),
    rule(EVERY, FAILED, Any, Cause::ServerFailed),
    rule(EVERY, 0..=u16::MAX, Any, Cause::OtherServer),
];

/// For answers in another form. The text is the beginning of the body.
#[rustfmt::skip]
static OF_ANOTHER: &[Rule] = &[
    rule(EVERY, 472..=472, Any, Cause::DrSecondary),
    rule(EVERY, 429..=429, Any, Cause::QuotaExceeded),
    rule(EVERY, 400..=400, All(&["HTTPS"]), Cause::HttpsOnly),
    // Behind the proxy, no server answers. The codes from 520 are those of Cloudflare.
    rule(EVERY, 500..=500, Any, Cause::GatewayFailed),
    rule(EVERY, 502..=504, Any, Cause::GatewayFailed),
    rule(EVERY, 520..=530, Any, Cause::GatewayFailed),
    rule(EVERY, 0..=u16::MAX, Any, Cause::OtherServer),
];

/// The cause of an answer in the server's own form with this text.
pub(super) fn of_the_server(call: Call, status: u16, text: &ServerText) -> Cause {
    first(OF_THE_SERVER, call, status, text)
}

/// The cause of an answer in another form.
pub(super) fn of_another(call: Call, status: u16, text: String) -> Cause {
    first(OF_ANOTHER, call, status, &ServerText { text, is_list: false })
}

fn first(rules: &[Rule], call: Call, status: u16, text: &ServerText) -> Cause {
    let found = rules.iter().find(|rule| rule.fits(call, status, text));
    found.map_or(Cause::OtherServer, |rule| rule.cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::classification::Class;

    /// What the corpus cannot have: words of the servers' sources, and words that nobody knows.
    #[test]
    fn words_that_were_not_recorded() {
        let class = |call, status, text: &str| {
            of_the_server(call, status, &ServerText { text: text.to_owned(), is_list: false }).class()
        };
        assert_eq!(class(Call::Encrypt, 503, "Vault is in standby mode"), Class::Standby);
        assert_eq!(class(Call::Encrypt, 400, "Vault is not initialized"), Class::Sealed);
        assert_eq!(class(Call::Encrypt, 400, "no such key version"), Class::VersionGone);
        let locked = "API access to this namespace has been locked by an administrator";
        assert_eq!(class(Call::Login, 503, locked), Class::Denied);
        assert_eq!(class(Call::Unwrap, 403, "permission denied"), Class::Denied);
        assert_eq!(class(Call::Login, 403, "invalid token"), Class::Denied, "a login has no token");
        assert_eq!(class(Call::Login, 400, "unknown words"), Class::CredentialsRefused);
        assert_eq!(class(Call::Login, 404, "unknown words"), Class::WrongSetting);
        assert_eq!(class(Call::Decrypt, 400, "unknown words"), Class::BadCiphertext);
        assert_eq!(class(Call::Encrypt, 403, "unknown words"), Class::Denied);
        assert_eq!(class(Call::Encrypt, 501, "unknown words"), Class::Outage);
        for status in [400, 409, 422] {
            let given = class(Call::Encrypt, status, "unknown words");
            assert_eq!(given, Class::OwnFault, "{status} is no reason to erase keys");
        }
        // A gateway that blocks sys/health.
        assert_eq!(class(Call::Health, 403, "permission denied"), Class::NotVault);
    }

    #[test]
    fn an_answer_in_another_form_is_never_a_refusal() {
        for status in 100..=999 {
            for call in [Call::Health, Call::Login, Call::Lookup, Call::Encrypt, Call::ReadKey] {
                let kind = of_another(call, status, "<html>permission denied</html>".to_owned())
                    .class()
                    .kind()
                    .unwrap();
                assert!(kind.is_outage() && kind.may_fail_over(), "{status}");
            }
        }
    }
}
