//! The host names under which the admin API answers.
//!
//! A web page can give its own name the address 127.0.0.1 (DNS rebinding). A browser on this node then lets the page
//! read what the admin address answers, but it still sends the page's name as the `Host` of the request. So everything
//! except the probes and `/metrics` is answered only under a name that no stranger can own.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// What a caller reads who used another name.
const REFUSAL: &str = "this is not answered under this host name: use an IP address or localhost, or add the name to server.admin_hosts\n";

/// The configured names, beside `localhost` and every IP address.
#[derive(Clone, Debug)]
pub(crate) struct HostNames(Arc<[String]>);

impl HostNames {
    /// The names are compared without regard to case.
    pub(crate) fn new(names: &[String]) -> Self {
        Self(names.into())
    }

    /// Whether a request with these headers uses an accepted name. One without a name is from no browser.
    pub(super) fn accept(&self, headers: &HeaderMap) -> bool {
        headers.get_all(header::HOST).iter().all(|host| host.to_str().is_ok_and(|host| self.accepts(host)))
    }

    fn accepts(&self, host: &str) -> bool {
        if host.is_empty() {
            return true;
        }
        // A user would be a part of the authority, and hide the name behind it.
        let Some(authority) = host.parse::<Authority>().ok().filter(|_| !host.contains('@')) else {
            return false;
        };
        let name = authority.host();
        let ipv6 = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        name.eq_ignore_ascii_case("localhost")
            || name.parse::<Ipv4Addr>().is_ok()
            || ipv6.is_some_and(|name| name.parse::<Ipv6Addr>().is_ok())
            || self.0.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// Refuses a request under another name, before its body is read.
pub(super) async fn check(State(names): State<HostNames>, request: Request, next: Next) -> Response {
    if names.accept(request.headers()) {
        return next.run(request).await;
    }
    (StatusCode::MISDIRECTED_REQUEST, REFUSAL).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_no_stranger_can_own_are_accepted() {
        let names = HostNames::new(&["Node-1.example".to_owned()]);
        let accepts = |hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, host.parse().unwrap());
            }
            names.accept(&headers)
        };
        for host in [
            "127.0.0.1:8690",
            "10.0.0.5",
            "[::1]:8690",
            "[::1]",
            "localhost",
            "LOCALHOST:8690",
            "node-1.example:80",
            "",
        ] {
            assert!(accepts(&[host]), "{host}");
        }
        assert!(accepts(&[]), "HTTP/1.0 has no Host");
        for host in [
            "evil.example",
            "evil.example:8690",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "a@localhost",
            "evil.example@127.0.0.1",
            "127.0.0.1@evil.example",
            "[evil.example]",
            "::1",
            "127.1",
            "0x7f.0.0.1",
            "node-1.example.",
            "localhost localhost",
            "localhost,evil.example",
        ] {
            assert!(!accepts(&[host]), "{host}");
        }
        assert!(!accepts(&["localhost", "evil.example"]), "every one counts");
    }
}
