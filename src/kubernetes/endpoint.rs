//! The endpoint of a KMS provider: `unix://` and the path of a socket.

use std::path::{Path, PathBuf};

/// The endpoint that makes kube-apiserver call the plugin on `socket`.
pub(crate) fn of_socket(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// The path of the socket that kube-apiserver connects to, as Go's `url.Parse` reads the endpoint. So `unix:/run/x` and
/// `UNIX:///run/x` are fine, and in `unix://run/x` the path is only `/x`: what comes first is a host.
///
/// # Errors
/// What is wrong, for which kube-apiserver refuses the endpoint.
pub(crate) fn parse(endpoint: &str) -> Result<String, &'static str> {
    if endpoint.is_empty() {
        return Err("is empty");
    }
    if endpoint.contains(|c: char| c.is_ascii_control()) {
        return Err("has a control character");
    }
    let without_fragment = endpoint
        .split_once('#')
        .map_or(endpoint, |(before, after)| if unescape(after).is_some() { before } else { "" });
    let scheme = |text: &str| {
        let mut bytes = text.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    };
    let Some((name, rest)) = without_fragment.split_once(':').filter(|(name, _)| scheme(name)) else {
        return Err("has no scheme");
    };
    if !name.eq_ignore_ascii_case("unix") {
        return Err("has another scheme than unix");
    }
    let rest = rest.split_once('?').map_or(rest, |(before, _)| before);
    if !rest.starts_with('/') {
        // "Opaque" to Go: without a path.
        return Ok(String::new());
    }
    let path = match rest.strip_prefix("//") {
        Some(tail) if !rest.starts_with("///") => {
            let (host, path) = tail.find('/').map_or((tail, ""), |at| tail.split_at(at));
            if is_host(host) { path } else { return Err("is not a URL") }
        }
        _ => rest.strip_prefix("//").unwrap_or(rest),
    };
    unescape(path).ok_or("is not a URL")
}

/// Whether Go accepts it between `unix://` and the path: a host, with a user and a port if they are there.
fn is_host(authority: &str) -> bool {
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let user_is_good = user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b));
    let allowed = |b: u8| b.is_ascii_alphanumeric() || !b.is_ascii() || b"-_.~!$&'()*+,;=:<>\"".contains(&b);
    let port = host.rsplit_once(':').map_or("", |(_, port)| port);
    user_is_good
        && unescape(user).is_some()
        && host.bytes().all(allowed)
        && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// Replaces `%2f` and the like.
fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(
            u8::from_str_radix(
                part.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?,
                16,
            )
            .ok()?,
        );
        bytes.extend(part.get(2..)?.as_bytes());
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The normal form of a socket's path, to compare endpoints and paths. An endpoint begins with `unix:`, `/var/run` is
/// `/run`, and slashes may be repeated.
pub(crate) fn normalise(endpoint: &str) -> PathBuf {
    let path = parse(endpoint).unwrap_or_else(|_| endpoint.to_owned());
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    let parts = if parts.starts_with(&["var", "run"]) { parts.get(1..).unwrap_or_default() } else { &parts };
    parts.iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spelling_of_a_socket_is_the_same_path() {
        let socket = normalise("/run/kmsplugin/kms.sock");
        for endpoint in [
            "unix:///run/kmsplugin/kms.sock",
            "unix:///var/run/kmsplugin/kms.sock",
            "unix:////run//kmsplugin/kms.sock",
            "unix:/run/kmsplugin/kms.sock",
            "UNIX:///run/kmsplugin/kms%2esock",
            "/var/run/kmsplugin/kms.sock",
        ] {
            assert_eq!(normalise(endpoint), socket, "{endpoint}");
        }
        assert_ne!(normalise("unix:///run/other/kms.sock"), socket);
        assert_ne!(normalise("unix://run/kmsplugin/kms.sock"), socket, "the host is not a part of the path");
        assert_eq!(normalise(&of_socket(Path::new("/run/kmsplugin/kms.sock"))), socket);
    }
}
