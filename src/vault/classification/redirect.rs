//! Where an answer sends to: the active node, HTTPS, or a portal.
//!
//! Must not follow it: the client does, and only to configured addresses.

use url::{Origin, Url};

use super::class::Cause;
use crate::untrusted;

/// A redirect.
pub(super) struct Redirect {
    /// The target's scheme, host and port; `None` when the location is not a URL.
    origin: Option<Origin>,
    /// The base of the target's URL, for the same request there; `None` when the location is another path.
    pub(super) base: Option<Url>,
    /// Whether it is the same path, with its query.
    same_path: bool,
    /// Whether only the scheme is another: HTTPS in place of HTTP.
    to_https: bool,
}

impl Redirect {
    /// What `location` means, in the answer to a request for `path` below `base`.
    pub(super) fn new(base: &Url, path: &str, location: &str) -> Self {
        let target = base.join(location).ok();
        let there = target.as_ref().and_then(|target| base_of(target, base, path));
        let same_path = there.is_some();
        let to_https = target.as_ref().is_some_and(|target| {
            (base.scheme(), target.scheme()) == ("http", "https") && base.host() == target.host()
        });
        Self {
            origin: target.map(|target| target.origin()),
            base: there,
            same_path,
            to_https: to_https && same_path,
        }
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
        untrusted::text(&text)
    }
}

/// `target` without the request's path at its end. What is before it is the prefix of a gateway: a server behind a
/// gateway that removes the prefix does not know it, and leaves it out.
fn base_of(target: &Url, base: &Url, path: &str) -> Option<Url> {
    let asked = base.join(&format!("v1/{path}")).ok()?;
    // The path of the request with its first slash, as the URL encodes it.
    let own = asked.path().get(base.path().len().checked_sub(1)?..)?;
    let prefix = target.path().strip_suffix(own).filter(|_| target.query() == asked.query())?;
    let mut there = target.clone();
    there.set_path(&format!("{prefix}/"));
    there.set_query(None);
    Some(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateways_prefix_is_not_a_part_of_the_request() {
        let there = |base: &str, location| {
            Redirect::new(&Url::parse(base).unwrap(), "sys/health?standbyok=true", location).base
        };
        let gateway = "https://gw.example/a/";
        for (location, expected) in [
            ("https://gw.example/b/v1/sys/health?standbyok=true", Some("https://gw.example/b/")),
            ("https://gw.example/v1/sys/health?standbyok=true", Some("https://gw.example/")),
            ("https://b.example:8200/v1/sys/health?standbyok=true", Some("https://b.example:8200/")),
            ("https://gw.example/b/v1/sys/health", None),
            ("https://gw.example/login", None),
        ] {
            assert_eq!(there(gateway, location).as_ref().map(Url::as_str), expected, "{location}");
        }
    }

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
