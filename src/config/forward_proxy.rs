//! `vault.proxy`: the forward proxy between the agent and the servers. Only the configuration names it, never the
//! environment.

use std::path::PathBuf;

use url::Url;

use super::endpoint::{Endpoint, without_userinfo};
use super::name::plain_segment;
use super::secret::SecretSource;
use super::validate::Validator;

/// A forward proxy for HTTP.
#[derive(Clone, Debug)]
pub(crate) struct ForwardProxy {
    /// `http://` or `https://`, host and port; no user.
    pub url: Url,
    /// The user and the source of the password.
    pub login: Option<(String, SecretSource)>,
    /// Hosts (`vault.example`) and domains (`.example`) that the agent connects to directly, in lower case.
    except: Vec<String>,
}

/// The settings as written.
#[derive(Clone, Debug, Default)]
pub(super) struct RawForwardProxy {
    pub url: Option<String>,
    pub password_file: Option<PathBuf>,
    pub credential: Option<String>,
    pub except: Vec<String>,
}

impl ForwardProxy {
    /// As it is shown to people.
    pub(crate) fn name(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Whether requests to this address go through it. What is on this machine never does.
    pub(crate) fn covers(&self, endpoint: &Endpoint) -> bool {
        let host = endpoint.url().host_str().unwrap_or_default().trim_matches(['[', ']']).to_lowercase();
        let excepted = |entry: &String| host == *entry || (entry.starts_with('.') && host.ends_with(entry));
        !endpoint.is_local() && !self.except.iter().any(excepted)
    }
}

impl RawForwardProxy {
    pub(super) fn validate(self, check: &mut Validator<'_>, prefix: &str) -> Option<ForwardProxy> {
        let key = |name: &str| format!("{prefix}.{name}");
        let Some(text) = self.url else {
            let orphans = [
                ("proxy_password_file", self.password_file.is_some()),
                ("proxy_credential", self.credential.is_some()),
                ("proxy_except", !self.except.is_empty()),
            ];
            for (name, _) in orphans.iter().filter(|(_, given)| *given) {
                check.problem(&key(name), format!("has no effect without {prefix}.proxy"));
            }
            return None;
        };
        let mut url = match parse(&text) {
            Ok(url) => url,
            Err(message) => {
                check.problem(&key("proxy"), format!("{:?} {message}", without_userinfo(&text)));
                return None;
            }
        };
        let user = url.username().to_owned();
        let login = match (user.is_empty(), self.password_file, self.credential) {
            (true, None, None) => None,
            (true, ..) => {
                check.problem(&key("proxy"), "a password is given, but no user; write http://USER@HOST:PORT");
                return None;
            }
            (false, Some(file), None) => Some((user, SecretSource::file(&file, false))),
            (false, None, Some(name)) if plain_segment(&name) => Some((user, SecretSource::Credential(name))),
            _ => {
                check.problem(
                    &key("proxy_password_file"),
                    format!("a user needs a password: set either {prefix}.proxy_password_file or {prefix}.proxy_credential, the name of a systemd credential"),
                );
                return None;
            }
        };
        // It cannot fail: the URL has a host.
        let _infallible = url.set_username("");
        let except: Vec<String> =
            self.except.iter().map(|host| host.trim().trim_start_matches('*').to_lowercase()).collect();
        for entry in except.iter().filter(|entry| !is_exception(entry)) {
            check.problem(
                &key("proxy_except"),
                format!(
                    "{entry:?} is neither a host, as in {prefix}.addresses, nor a domain such as .example"
                ),
            );
        }
        Some(ForwardProxy { url, login, except })
    }
}

fn parse(text: &str) -> Result<Url, String> {
    if !text.contains("://") {
        return Err(
            "has no scheme; write http://HOST:PORT, and a password into a file (vault.proxy_password_file)"
                .into(),
        );
    }
    let url = Url::parse(text).map_err(|_| "is not the address of a proxy; write http://HOST:PORT")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with http:// or https://".into());
    }
    if url.password().is_some() {
        return Err(
            "must not hold a password; put it into a file, and name that with vault.proxy_password_file"
                .into(),
        );
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err("must end after the port".into());
    }
    Ok(url)
}

/// Whether it can be compared with a host. An IPv6 address has colons.
fn is_exception(entry: &str) -> bool {
    let name = entry.strip_prefix('.').unwrap_or(entry);
    entry.parse::<std::net::IpAddr>().is_ok() || plain_segment(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_and_exceptions_are_reached_directly() {
        let proxy = ForwardProxy {
            url: Url::parse("http://proxy:3128").unwrap(),
            login: None,
            except: vec!["v.example".into(), ".internal".into(), "10.0.0.1".into(), "fd00::1".into()],
        };
        let covers = |text| proxy.covers(&Endpoint::parse(text, true).unwrap());
        for direct in [
            "https://v.example:8200",
            "https://V.Example",
            "https://a.internal",
            "https://10.0.0.1",
            "https://[fd00::1]:8200",
            "http://127.0.0.1:8200",
            "unix:///run/x.sock",
        ] {
            assert!(!covers(direct), "{direct}");
        }
        assert!(covers("https://w.example") && covers("https://internal") && covers("https://xv.example"));
    }
}
