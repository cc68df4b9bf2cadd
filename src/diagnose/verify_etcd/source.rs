//! What is read: etcd with a selection of prefixes, or a stream.

use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::error::StorageError;
use crate::admin::api_types::{Phase, Status};
use crate::config::vault::Tls;
use crate::etcd::expected::Expected;
use crate::etcd::gateway::Etcd;
use crate::etcd::key;
use crate::files;
use crate::kubernetes::encryption_configuration::{self, Rule};
use crate::vault;

/// Largest file with a node's status, in bytes.
const MAX_STATUS: u64 = 4 * 1024 * 1024;

/// Where the objects come from.
pub(crate) enum Source<R> {
    Etcd(Endpoints, Selection),
    /// The output of `etcdctl get`.
    Stream(R),
}

/// How etcd is reached.
pub(crate) struct Endpoints {
    /// `http` or `https`; tried in order.
    pub urls: Vec<Url>,
    pub tls: Tls,
    /// For each answer; longer than zero.
    pub timeout: Duration,
}

impl Endpoints {
    /// A client. Reads the TLS files where an endpoint is `https`.
    pub(super) fn etcd(self) -> Result<Etcd, StorageError> {
        let tls = match self.urls.iter().any(|url| url.scheme() == "https") {
            false => None,
            true => Some(vault::client_config(&self.tls, None).map_err(StorageError::Tls)?),
        };
        Ok(Etcd::new(self.urls, tls, self.timeout)?)
    }
}

/// Which objects are read.
pub(crate) enum Selection {
    /// Secrets and ConfigMaps.
    Default,
    /// The keys with these prefixes.
    Prefixes(Vec<String>),
    /// Everything that the EncryptionConfigurations name.
    Configurations,
    /// Every object of the API servers.
    Whole,
}

impl Selection {
    /// The prefixes, below `root` where they are derived from resources. No prefix begins with another one, so no
    /// object is counted twice.
    pub(super) fn prefixes(self, root: &str, expected: Option<&Expected>) -> Vec<String> {
        let mut prefixes = match self {
            Self::Default => {
                ["secrets", "configmaps"].iter().filter_map(|name| key::prefix_of(name, root)).collect()
            }
            Self::Prefixes(prefixes) => prefixes,
            Self::Configurations => expected.map(|expected| expected.prefixes(root)).unwrap_or_default(),
            Self::Whole => key::roots(root),
        };
        prefixes.sort();
        prefixes.dedup_by(|next, before| next.starts_with(before.as_str()));
        prefixes
    }
}

/// An EncryptionConfiguration that is in use.
pub(crate) struct Configuration {
    pub(super) file: PathBuf,
    pub(super) rules: Vec<Rule>,
}

impl Configuration {
    /// # Errors
    /// The file cannot be read, or kube-apiserver does not load it.
    pub(crate) fn read(file: &Path) -> Result<Self, StorageError> {
        let rules = encryption_configuration::read(file)
            .map_err(|why| StorageError::Configuration { path: file.to_owned(), why })?;
        Ok(Self { file: file.to_owned(), rules })
    }
}

/// The status of another node's agent, from the output of `kms-plugin status --output json` there.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub(crate) fn peer(file: &Path) -> Result<Status, StorageError> {
    let text = files::read_argument(file, MAX_STATUS).ok();
    let status: Option<Status> = text.and_then(|text| serde_json::from_slice(&text).ok());
    // Every version of the agent tells its phase.
    status.filter(|status| status.phase != Phase::Unknown).ok_or_else(|| StorageError::Peer(file.to_owned()))
}

/// How the objects should be stored; `None` without a configuration.
pub(super) fn expected(files: &[Configuration], root: &str) -> Result<Option<Expected>, StorageError> {
    let Some(first) = files.first() else { return Ok(None) };
    let rules = files.iter().flat_map(|file| &file.rules);
    let path = || first.file.clone();
    Expected::new(rules, root).map(Some).map_err(|resource| StorageError::NoPrefix { path: path(), resource })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prefix_begins_with_another() {
        let given = ["/b/c/", "/a/", "/b/", "/a/"].map(str::to_owned).to_vec();
        assert_eq!(Selection::Prefixes(given).prefixes("/registry", None), ["/a/", "/b/"]);
        let default = Selection::Default.prefixes("/kubernetes.io", None);
        assert_eq!(default, ["/kubernetes.io/configmaps/", "/kubernetes.io/secrets/"]);
    }
}
