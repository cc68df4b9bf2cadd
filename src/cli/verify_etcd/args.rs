//! The options of `verify-etcd` that say what is read. They accept etcdctl's variables too.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::cli::exit::{Exit, Failure};
use crate::config::vault::Tls;
use crate::diagnose::verify_etcd::{self, Configuration, Endpoints, Questions, Selection, StorageError};
use crate::etcd::key::DEFAULT_ROOT;
use crate::kms::client;

/// How etcd is reached.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct EndpointArgs {
    /// Endpoint of etcd; several (repeated, or with commas) are tried in order
    #[arg(
        long = "endpoint",
        visible_alias = "endpoints",
        value_name = "URL",
        env = "ETCDCTL_ENDPOINTS",
        value_delimiter = ','
    )]
    endpoints: Vec<String>,
    /// Certificate authority of etcd [default: those of the system]
    #[arg(long, value_name = "FILE", env = "ETCDCTL_CACERT")]
    cacert: Option<PathBuf>,
    /// Client certificate
    #[arg(long, value_name = "FILE", env = "ETCDCTL_CERT", requires = "key")]
    cert: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, value_name = "FILE", env = "ETCDCTL_KEY", requires = "cert")]
    key: Option<PathBuf>,
    /// Time for each answer of etcd
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl EndpointArgs {
    pub(in crate::cli) fn is_given(&self) -> bool {
        !self.endpoints.is_empty()
    }

    pub(in crate::cli) fn endpoints(&self) -> Result<Endpoints, Failure> {
        if self.timeout.is_zero() {
            return Err(Failure::message(Exit::Usage, "--timeout must be longer than zero"));
        }
        let urls = self.endpoints.iter().map(|text| self.url(text)).collect::<Result<_, Failure>>()?;
        let client = self.cert.clone().zip(self.key.clone());
        let tls =
            Tls { ca_file: self.cacert.clone(), server_name: None, client, spiffe: None, skip_verify: false };
        Ok(Endpoints { urls, tls, timeout: self.timeout })
    }

    /// An endpoint as etcdctl accepts it: without a scheme it is https if TLS files are given.
    fn url(&self, text: &str) -> Result<Url, Failure> {
        let scheme = if self.cacert.is_some() || self.cert.is_some() { "https" } else { "http" };
        let full = if text.contains("://") { text.to_owned() } else { format!("{scheme}://{text}") };
        let url = Url::parse(&full).ok().filter(|url| {
            let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
            matches!(url.scheme(), "http" | "https") && url.has_host() && plain && url.path() == "/"
        });
        // The error does not quote the endpoint: it may hold a password.
        url.ok_or_else(|| {
            Failure::message(
                Exit::Usage,
                "an --endpoint is https://host:port or http://host:port, without a user, a path or a query",
            )
        })
    }
}

/// Which objects are read.
#[derive(Debug, clap::Args)]
pub(super) struct PrefixArgs {
    /// Read keys with this prefix; may be repeated [default: secrets/ and configmaps/ below --etcd-prefix]
    #[arg(long = "prefix", value_name = "PREFIX", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    prefixes: Vec<String>,
    /// Read the resources of this EncryptionConfiguration, and expect each object as its first provider writes it; may
    /// be repeated
    #[arg(long, value_name = "FILE", conflicts_with = "prefixes")]
    encryption_config: Vec<PathBuf>,
    /// The --etcd-prefix of kube-apiserver; on OpenShift /kubernetes.io
    #[arg(long, value_name = "PREFIX", default_value = DEFAULT_ROOT)]
    etcd_prefix: String,
}

impl PrefixArgs {
    /// Whether prefixes are given, which a pipe cannot follow.
    pub(super) fn is_given(&self) -> bool {
        !self.prefixes.is_empty()
    }

    /// The EncryptionConfigurations in use.
    pub(super) fn configurations(&self) -> Result<Vec<Configuration>, StorageError> {
        self.encryption_config.iter().map(|file| Configuration::read(file)).collect()
    }

    pub(super) fn root(&self) -> &str {
        &self.etcd_prefix
    }

    pub(super) fn selection(&self) -> Selection {
        match (self.prefixes.is_empty(), self.encryption_config.is_empty()) {
            (false, _) => Selection::Prefixes(self.prefixes.clone()),
            (true, false) => Selection::Configurations,
            (true, true) => Selection::Default,
        }
    }
}

/// What may be done now. Each question reads all of etcd.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Questions about all of etcd")]
pub(super) struct QuestionArgs {
    /// May the plugin be stopped and removed? Needs --encryption-config, once for each kind of API server
    #[arg(long)]
    may_remove: bool,
    /// May min_decryption_version of the Transit key be raised to N?
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    may_raise_min_version: Option<u32>,
    /// May versions below N of the Transit key be trimmed?
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    may_trim: Option<u32>,
    /// For versions: the output of `kms-plugin status --output json` on another control plane node; once for each
    #[arg(long, value_name = "FILE")]
    peer: Vec<PathBuf>,
    /// For versions: there is no other control plane node
    #[arg(long, conflicts_with = "peer")]
    only_node: bool,
    /// Can the running agent unwrap every DEK seed, with the Vault that it has? For a restored backup of etcd. No seed
    /// is shown
    #[arg(long)]
    can_read_seeds: bool,
    /// With --can-read-seeds: the agent's socket
    #[arg(long, value_name = "PATH", default_value = "/run/kmsplugin/kms.sock")]
    socket: String,
    /// The pipe holds all of etcd: etcdctl get --prefix / -w json
    #[arg(long)]
    pub(super) complete: bool,
}

impl QuestionArgs {
    pub(super) fn questions(&self) -> Result<Questions, StorageError> {
        let peer = |file: &PathBuf| Ok((file.display().to_string(), verify_etcd::peer(file)?));
        Ok(Questions {
            may_remove: self.may_remove,
            may_raise_min_version: self.may_raise_min_version,
            may_trim: self.may_trim,
            can_read_seeds: self.can_read_seeds.then(|| client::socket_path(&self.socket)),
            peers: self.peer.iter().map(peer).collect::<Result<_, StorageError>>()?,
            only_node: self.only_node,
        })
    }
}
