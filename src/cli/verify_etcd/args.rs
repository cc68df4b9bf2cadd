//! The options of `verify-etcd` that say what is read. They accept etcdctl's variables too.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::cli::exit::{Exit, Failure};
use crate::config::vault::Tls;
use crate::diagnose::verify_etcd::{Endpoints, Selection};
use crate::etcd::key::DEFAULT_ROOT;

/// How etcd is reached.
#[derive(Debug, clap::Args)]
pub(super) struct EndpointArgs {
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
    pub(super) fn is_given(&self) -> bool {
        !self.endpoints.is_empty()
    }

    pub(super) fn endpoints(&self) -> Result<Endpoints, Failure> {
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
    /// Read the resources of this EncryptionConfiguration
    #[arg(long, value_name = "FILE", conflicts_with = "prefixes")]
    encryption_config: Option<PathBuf>,
    /// The --etcd-prefix of kube-apiserver; on OpenShift /kubernetes.io
    #[arg(long, value_name = "PREFIX", default_value = DEFAULT_ROOT)]
    etcd_prefix: String,
}

impl PrefixArgs {
    pub(super) fn is_given(&self) -> bool {
        !self.prefixes.is_empty() || self.encryption_config.is_some()
    }

    pub(super) fn root(&self) -> &str {
        &self.etcd_prefix
    }

    pub(super) fn selection(&self) -> Selection {
        match &self.encryption_config {
            Some(file) => Selection::Configuration(file.clone()),
            None if self.prefixes.is_empty() => Selection::Default,
            None => Selection::Prefixes(self.prefixes.clone()),
        }
    }
}
