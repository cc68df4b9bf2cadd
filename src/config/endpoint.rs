//! One address of a cluster, as the configuration names it: a URL, with the path prefix of a gateway where there is
//! one, or a unix socket.

use std::path::{Path, PathBuf};

use url::Url;

use super::name::plain_path;

/// What an address of a unix socket begins with. Its path is absolute: there are three slashes.
const UNIX: &str = "unix://";
/// Longest path of a socket, in bytes (unix(7)).
const MAX_SOCKET: usize = 107;

/// An address without a user and a password, to show it. They may be there by mistake, also in an address that lacks its
/// scheme. The path of a unix socket stays as it is.
pub(crate) fn without_userinfo(text: &str) -> String {
    let (scheme, rest) = match text.find("://") {
        Some(at) => text.split_at(at + 3),
        None => ("", text),
    };
    match rest.rsplit_once('@') {
        Some((_, host)) if scheme != UNIX => format!("{scheme}…@{host}"),
        _ => text.to_owned(),
    }
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The base of each request. Its path ends with a slash. That of a unix socket is `http://localhost/`.
    url: Url,
    /// The unix socket, where it is one.
    socket: Option<PathBuf>,
}

impl Endpoint {
    /// Reads an address. `plain_http` is whether `http://` may go beyond loopback.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence about it.
    pub(crate) fn parse(text: &str, plain_http: bool) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return Self::unix(path);
        }
        let userinfo = "must not hold a user or a password: the agent logs in as vault.auth says";
        if !text.contains("://") && text.contains('@') {
            return Err(userinfo.into());
        }
        if !text.contains("://") {
            return Err(format!("has no scheme; write https://{text}"));
        }
        let mut url = Url::parse(text).map_err(|error| format!("is not an address: {error}"))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err("must begin with https:// (or unix:// for a socket)".into());
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err("has no host".into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(userinfo.into());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("must not hold a query or a fragment (? or #)".into());
        }
        let prefix = url.path().trim_matches('/').to_owned();
        if prefix.split('/').any(|part| part == "v1") {
            return Err("must end before /v1, which the agent adds itself; set the mount with vault.transit.mount and the namespace with vault.namespace".into());
        }
        if !prefix.is_empty() && !plain_path(&prefix) {
            return Err("has a path that is not plain text between slashes".into());
        }
        url.set_path(&if prefix.is_empty() { "/".to_owned() } else { format!("/{prefix}/") });
        let endpoint = Self { url, socket: None };
        if endpoint.url.scheme() == "http" && !plain_http && !endpoint.is_local() {
            return Err(
                "is plain HTTP beyond loopback: anyone between the agent and the server could read every DEK seed; use https://".into(),
            );
        }
        Ok(endpoint)
    }

    fn unix(path: &str) -> Result<Self, String> {
        if !path.starts_with('/') || path.ends_with('/') {
            return Err("is not the absolute path of a socket; write unix:///run/NAME.sock".into());
        }
        if path.len() > MAX_SOCKET {
            return Err(format!("has a path of {} bytes; the kernel allows {MAX_SOCKET}", path.len()));
        }
        let url = Url::parse("http://localhost/").map_err(|error| format!("is not an address: {error}"))?;
        Ok(Self { url, socket: Some(PathBuf::from(path)) })
    }

    /// The base of each request: its path ends with a slash.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// The unix socket to connect to, where it is one.
    pub(crate) fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// As it is shown to people.
    pub(crate) fn name(&self) -> String {
        match &self.socket {
            Some(path) => format!("{UNIX}{}", path.display()),
            None => format!(
                "{}{}",
                self.url.origin().ascii_serialization(),
                self.url.path().trim_end_matches('/')
            ),
        }
    }

    /// Whether it is on this machine: a unix socket or loopback.
    pub(crate) fn is_local(&self) -> bool {
        self.socket.is_some()
            || match self.url.host() {
                Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
                Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
                Some(url::Host::Domain(name)) => name == "localhost",
                None => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_name_and_a_base() {
        for (text, name, base) in [
            ("https://v.example:8200", "https://v.example:8200", "https://v.example:8200/"),
            ("https://v.example:443/", "https://v.example", "https://v.example/"),
            ("https://gw.example/vault", "https://gw.example/vault", "https://gw.example/vault/"),
            ("https://gw.example/a/vault//", "https://gw.example/a/vault", "https://gw.example/a/vault/"),
            ("http://[::1]:8200", "http://[::1]:8200", "http://[::1]:8200/"),
            ("unix:///run/vault/proxy.sock", "unix:///run/vault/proxy.sock", "http://localhost/"),
        ] {
            let endpoint = Endpoint::parse(text, false).unwrap();
            assert_eq!((endpoint.name().as_str(), endpoint.url().as_str()), (name, base), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for (text, part) in [
            ("v.example:8200", "has no scheme"),
            ("user:hunter2@v.example:8200", "must not hold a user"),
            ("user:hun/ter2@v.example:8200", "must not hold a user"),
            ("https://user:hunter2@v.example:8200", "must not hold a user"),
            ("https://user:hun/ter2@v.example:8200", ""),
            ("https://v.example/v1", "must end before /v1"),
            ("https://v.example/v1/team", "must end before /v1"),
            ("https://v.example/?x=1", "query"),
            ("https://v.example/a%2fb", "not plain text"),
            ("unix://run/x.sock", "absolute path"),
            ("unix:///run/", "absolute path"),
            ("http://v.example", "plain HTTP"),
        ] {
            let problem = Endpoint::parse(text, false).unwrap_err();
            assert!(problem.contains(part) && !problem.contains("ter2"), "{text}: {problem}");
        }
        assert!(Endpoint::parse("http://v.example", true).is_ok());
    }

    #[test]
    fn only_sockets_and_loopback_are_on_this_machine() {
        let local = |text| Endpoint::parse(text, true).unwrap().is_local();
        assert!(local("unix:///run/x.sock") && local("http://127.0.0.9:1") && local("https://localhost"));
        assert!(!local("https://10.0.0.1") && !local("http://localhost.example"));
    }
}
