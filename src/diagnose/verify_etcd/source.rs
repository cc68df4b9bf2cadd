//! What is read: etcd with a selection of prefixes, or a stream.

use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::error::StorageError;
use crate::config::vault::Tls;
use crate::etcd::gateway::Etcd;
use crate::etcd::key;
use crate::kubernetes::encryption_configuration;
use crate::vault;

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
    /// The resources of this EncryptionConfiguration.
    Configuration(PathBuf),
}

impl Selection {
    /// The prefixes, below `root` where they are derived from resources. No prefix begins with another one, so no
    /// object is counted twice.
    pub(super) fn prefixes(self, root: &str) -> Result<Vec<String>, StorageError> {
        let mut prefixes = match self {
            Self::Default => {
                ["secrets", "configmaps"].iter().filter_map(|name| key::prefix_of(name, root)).collect()
            }
            Self::Prefixes(prefixes) => prefixes,
            Self::Configuration(file) => of_configuration(&file, root)?,
        };
        prefixes.sort();
        prefixes.dedup_by(|next, before| next.starts_with(before.as_str()));
        Ok(prefixes)
    }
}

fn of_configuration(file: &Path, root: &str) -> Result<Vec<String>, StorageError> {
    let path = || file.to_path_buf();
    let rules = encryption_configuration::read(file)
        .map_err(|why| StorageError::Configuration { path: path(), why })?;
    let resources = rules.iter().flat_map(|rule| &rule.resources);
    let prefixes: Vec<String> = resources
        .map(|resource| {
            key::prefix_of(resource, root)
                .ok_or_else(|| StorageError::NoPrefix { path: path(), resource: resource.clone() })
        })
        .collect::<Result<_, _>>()?;
    if prefixes.is_empty() { Err(StorageError::NoResources(path())) } else { Ok(prefixes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prefix_begins_with_another() {
        let given = ["/b/c/", "/a/", "/b/", "/a/"].map(str::to_owned).to_vec();
        assert_eq!(Selection::Prefixes(given).prefixes("/registry").unwrap(), ["/a/", "/b/"]);
        let default = Selection::Default.prefixes("/kubernetes.io").unwrap();
        assert_eq!(default, ["/kubernetes.io/configmaps/", "/kubernetes.io/secrets/"]);
    }
}
