//! Where an answer sends to: the active node, HTTPS, or a portal.
//!
//! Must not follow it: the client does, and only to configured addresses.

use url::{Origin, Url};

use super::class::Cause;

/// Longest shown target, in characters.
const MAX_SHOWN: usize = 100;

/// A redirect.
pub(super) struct Redirect {
    /// The target's scheme, host and port; `None` when the location is not a URL.
    pub(super) origin: Option<Origin>,
    /// Whether it is the same path, with its query.
    same_path: bool,
    /// Whether only the scheme is another: HTTPS in place of HTTP.
    to_https: bool,
}

impl Redirect {
    /// What `location` means, in the answer to a request for `path` below `base`.
    pub(super) fn new(base: &Url, path: &str, location: &str) -> Self {
        let target = base.join(location).ok();
        let asked = base.join(&format!("/v1/{path}")).ok();
        let same =
            |target: &Url, asked: &Url| (target.path(), target.query()) == (asked.path(), asked.query());
        let same_path =
            target.as_ref().zip(asked.as_ref()).is_some_and(|(target, asked)| same(target, asked));
        let to_https = target.as_ref().is_some_and(|target| {
            (base.scheme(), target.scheme()) == ("http", "https") && base.host() == target.host()
        });
        Self { origin: target.map(|target| target.origin()), same_path, to_https: to_https && same_path }
    }

    /// The cause, for a target that is not configured.
    pub(super) fn cause(&self, status: u16) -> Cause {
        match status {
            _ if self.to_https => Cause::SendsToHttps,
            // A standby answers 307, and keeps path and query. A portal has a page of its own.
            307 if self.same_path => Cause::SendsToActiveNode,
            _ => Cause::SendsElsewhere,
        }
    }

    /// The target, for people.
    pub(super) fn shown(&self) -> String {
        let text = self.origin.as_ref().map_or_else(|| "no address".to_owned(), Origin::ascii_serialization);
        text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_standby_keeps_the_path_and_answers_307() {
        let cause = |base: &str, status, location| {
            Redirect::new(&Url::parse(base).unwrap(), "transit/keys/k", location).cause(status)
        };
        let tls = "https://vault.example:8200";
        assert_eq!(cause(tls, 307, "https://b.example:8200/v1/transit/keys/k"), Cause::SendsToActiveNode);
        assert_eq!(cause(tls, 302, "https://b.example:8200/v1/transit/keys/k"), Cause::SendsElsewhere);
        assert_eq!(cause(tls, 307, "/ui/"), Cause::SendsElsewhere);
        assert_eq!(cause(tls, 307, "https://sso.example/?rd=/v1/transit/keys/k"), Cause::SendsElsewhere);
        assert_eq!(cause(tls, 307, "::"), Cause::SendsElsewhere);
        let plain = "http://vault.example";
        assert_eq!(cause(plain, 308, "https://vault.example/v1/transit/keys/k"), Cause::SendsToHttps);
    }
}
