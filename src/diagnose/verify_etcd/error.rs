//! Why the objects in etcd cannot be checked.

use std::path::PathBuf;

use crate::etcd::etcdctl::form::ReadError;
use crate::etcd::gateway::EtcdError;
use crate::kubernetes::encryption_configuration::EncryptionConfigError;
use crate::vault::TlsError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    /// The EncryptionConfiguration cannot be used.
    #[error("{} {why}", path.display())]
    Configuration { path: PathBuf, why: EncryptionConfigError },
    /// A wildcard that needs several prefixes.
    #[error("{}: no single prefix in etcd holds {resource:?}", path.display())]
    NoPrefix { path: PathBuf, resource: String },
    #[error("{} is not the output of kms-plugin status --output json", .0.display())]
    Peer(PathBuf),
    /// A question needs all objects with their keys, and the input may have only some of them.
    #[error(
        "a question needs all of etcd: use --endpoint, or etcdctl get --prefix / -w json in a pipe, and --complete"
    )]
    NotComplete,
    #[error("TLS to etcd cannot be set up")]
    Tls(#[source] TlsError),
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The stream cannot be read.
    #[error(transparent)]
    Input(#[from] ReadError),
    /// No object was found, so the result would prove nothing. Holds the prefixes.
    #[error("no object was found")]
    NoObjects(Vec<String>),
}

impl StorageError {
    /// Whether the arguments, or what they name, are wrong. Otherwise the objects are not available.
    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::Configuration { .. } | Self::NoPrefix { .. } | Self::NotComplete | Self::Peer(_) => true,
            Self::Input(error) => matches!(error, ReadError::NoForm | ReadError::KeysOnly),
            Self::Tls(_) | Self::Etcd(_) | Self::NoObjects(_) => false,
        }
    }
}
