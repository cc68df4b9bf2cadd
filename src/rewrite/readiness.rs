//! Whether each API server has the new key: an object that is written before is not stale, and stays as it is.
//!
//! A plugin's own word is not enough: an API server asks it once a minute. So each API server is asked at its own address
//! what Status told it last.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use futures_util::future::join_all;
use serde::Serialize;
use tokio::time::Instant;
use url::Url;

use super::options::Progress;
use crate::cluster::{CallError, Connection, ConnectionError, Reported, addresses};
use crate::display::fit;

/// Time between two looks.
const AGAIN: Duration = Duration::from_secs(3);

/// What each API server must report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expectation {
    /// The key_id under which it writes; `None` when nothing is to be written under KMS.
    pub key_id: Option<String>,
    /// The providers whose key_id that is. Empty: one provider is enough, whatever its name.
    pub providers: Vec<String>,
    /// The EncryptionConfiguration that it uses, as `sha256:…`; `None`: any.
    pub configuration: Option<String>,
}

/// One API server and what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Server {
    pub address: String,
    /// Why nothing may be rewritten yet; `None` when it is ready.
    pub problem: Option<String>,
    /// The hash of the key_id that Status named last (`sha256:…`), by the name of the provider.
    pub key_ids: BTreeMap<String, String>,
}

impl Server {
    /// The key_ids for people: hashes are shortened.
    pub(crate) fn shown_key_ids(&self) -> String {
        let shown = |(provider, hash): (&String, &String)| {
            format!("{} of provider {}", fit(hash, 24), fit(provider, 40))
        };
        match self.key_ids.is_empty() {
            true => "none".to_owned(),
            false => self.key_ids.iter().map(shown).collect::<Vec<_>>().join(", "),
        }
    }
}

/// A hash as the metrics show it.
pub(crate) fn hash(content: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(digest(&SHA256, content).as_ref()))
}

impl Expectation {
    /// Why what an API server reports is not enough. `seen` is what it has, for people.
    fn unmet(&self, reported: &Reported, seen: &str) -> Option<String> {
        if let Some(key_id) = &self.key_id {
            let wanted = hash(key_id.as_bytes());
            let has =
                |provider: &str| reported.key_ids.get(provider).is_some_and(|(hash, _)| *hash == wanted);
            let missing = match self.providers.is_empty() {
                true => !reported.key_ids.keys().any(|provider| has(provider)),
                false => !self.providers.iter().all(|provider| has(provider)),
            };
            if missing {
                let wanted = fit(&wanted, 24);
                return Some(format!(
                    "does not write under the new key_id yet (hash {wanted}; it has {seen})"
                ));
            }
        }
        match (&self.configuration, &reported.configuration) {
            (None, _) => None,
            (Some(wanted), Some(used)) if wanted == used => None,
            (Some(_), Some(_)) => Some("uses another EncryptionConfiguration than this file".into()),
            (Some(_), None) => Some("does not say which EncryptionConfiguration it uses".into()),
        }
    }
}

/// A name that the certificate of every API server has.
const SERVER_NAME: &str = "kubernetes.default.svc";

/// A connection to each API server: at the addresses that are given, or that the API servers publish. Empty when they
/// publish none. `server_name` is what their certificates must name.
///
/// # Errors
/// The addresses cannot be read, or are none.
pub(crate) async fn servers(
    connection: &Connection,
    given: &[Url],
    server_name: Option<&str>,
) -> Result<Vec<Connection>, ServersError> {
    let published = match given.is_empty() {
        true => addresses(connection).await?,
        false => Vec::new(),
    };
    // The certificate of an API server need not have the address that the API server publishes.
    let published = published.iter().map(|url| (url, server_name.or(Some(SERVER_NAME))));
    let all = given.iter().map(|url| (url, server_name)).chain(published);
    Ok(all.map(|(url, name)| connection.at(url, name)).collect::<Result<_, ConnectionError>>()?)
}

/// Why the API servers cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServersError {
    #[error("the addresses of the API servers cannot be read: {0}")]
    Addresses(#[from] CallError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

/// Asks each API server once.
pub(crate) async fn look(servers: &[Connection], expectation: &Expectation) -> Vec<Server> {
    join_all(servers.iter().map(|server| one(server, expectation))).await
}

/// Asks until each API server is ready, for `longest` at most.
pub(crate) async fn wait(
    servers: &[Connection],
    expectation: &Expectation,
    longest: Duration,
    progress: &dyn Progress,
) -> Vec<Server> {
    let started = Instant::now();
    loop {
        let found = look(servers, expectation).await;
        let waiting: Vec<&Server> = found.iter().filter(|server| server.problem.is_some()).collect();
        let Some(first) = waiting.first() else { return found };
        if started.elapsed() >= longest {
            return found;
        }
        let problem = first.problem.as_deref().unwrap_or_default();
        progress.note(&format!(
            "waiting for {} of {} API servers: {} {problem}",
            waiting.len(),
            found.len(),
            first.address
        ));
        tokio::time::sleep(AGAIN).await;
    }
}

async fn one(server: &Connection, expectation: &Expectation) -> Server {
    // The check comes first: where the key_id has changed, it makes the seed.
    let checked = server.check_providers().await;
    let mut found = Server { address: server.address(), problem: None, key_ids: BTreeMap::new() };
    match server.reported().await {
        Err(error) => found.problem = Some(format!("does not show its metrics: {error}")),
        Ok(reported) => {
            let key_ids = reported.key_ids.iter();
            found.key_ids = key_ids.map(|(provider, (hash, _))| (provider.clone(), hash.clone())).collect();
            found.problem = expectation.unmet(&reported, &found.shown_key_ids()).or_else(|| {
                let error = checked.err().filter(|error| error.code() == Some(500))?;
                Some(format!("its check of the KMS providers fails: {error}"))
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(provider: &str, key_id: &str) -> Reported {
        let mut reported = Reported::default();
        reported.key_ids.insert(provider.into(), (hash(key_id.as_bytes()), 1.0));
        reported
    }

    #[test]
    fn an_api_server_must_have_the_key_id_under_the_provider() {
        let any = Expectation { key_id: Some("new".into()), ..Expectation::default() };
        assert_eq!(any.unmet(&reported("p", "new"), ""), None);
        assert!(
            any.unmet(&reported("p", "old"), "sha256:ab of provider p").unwrap().contains("of provider p")
        );
        assert!(any.unmet(&Reported::default(), "none").unwrap().contains("it has none"));
        let named = Expectation { providers: vec!["p".into()], ..any };
        assert_eq!(named.unmet(&reported("p", "new"), ""), None);
        assert!(named.unmet(&reported("q", "new"), "").is_some());
    }

    #[test]
    fn an_api_server_must_use_the_file() {
        let file = Expectation { configuration: Some(hash(b"file")), ..Expectation::default() };
        let with = |configuration: Option<&[u8]>| Reported {
            configuration: configuration.map(hash),
            ..Reported::default()
        };
        assert_eq!(file.unmet(&with(Some(b"file")), ""), None);
        assert!(file.unmet(&with(Some(b"other")), "").is_some());
        assert!(file.unmet(&with(None), "").is_some(), "unknown is not ready");
    }
}
