//! Where the objects come from: etcd's endpoints and prefixes, as the command line or etcdctl's variables say.

use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use crate::cli::exit::{Exit, Failure};
use crate::config::vault::Tls;
use crate::etcd::client::{Etcd, EtcdError, Refusal, RefusalKind};
use crate::etcd::key;
use crate::kubernetes::encryption_configuration::{EncryptionConfigError, read};
use crate::vault;

/// etcd itself.
#[derive(Debug, clap::Args)]
pub(crate) struct EndpointArgs {
    /// Endpoint of etcd; several (repeated, or with commas) are tried in turn
    #[arg(
        long = "endpoint",
        visible_alias = "endpoints",
        value_name = "URL",
        env = "ETCDCTL_ENDPOINTS",
        value_delimiter = ','
    )]
    endpoints: Vec<String>,
    /// Certificate authority of etcd; the system's when absent
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
    /// Whether etcd is to be asked itself.
    pub(crate) fn is_given(&self) -> bool {
        !self.endpoints.is_empty()
    }

    pub(crate) fn etcd(&self) -> Result<Etcd, Failure> {
        if self.timeout.is_zero() {
            return Err(Failure::message(Exit::Usage, "--timeout must be longer than zero"));
        }
        let endpoints: Vec<Url> =
            self.endpoints.iter().map(|text| self.url(text)).collect::<Result<_, Failure>>()?;
        let unusable = |error: anyhow::Error| Failure::new(Exit::Unavailable, error);
        let tls = match endpoints.iter().any(|endpoint| endpoint.scheme() == "https") {
            false => None,
            true => Some(vault::client_config(&self.tls()).map_err(|error| {
                unusable(anyhow::Error::new(error).context("TLS to etcd: see --cacert, --cert and --key"))
            })?),
        };
        Etcd::new(endpoints, tls, self.timeout).map_err(|error| unusable(error.into()))
    }

    fn tls(&self) -> Tls {
        let client = self.cert.clone().zip(self.key.clone());
        Tls { ca_file: self.cacert.clone(), server_name: None, client, skip_verify: false }
    }

    /// An endpoint as etcdctl takes it: without a scheme it is https where TLS files are named.
    fn url(&self, text: &str) -> Result<Url, Failure> {
        let scheme = if self.cacert.is_some() || self.cert.is_some() { "https" } else { "http" };
        let full = if text.contains("://") { text.to_owned() } else { format!("{scheme}://{text}") };
        let url = Url::parse(&full).ok().filter(|url| {
            let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
            matches!(url.scheme(), "http" | "https") && url.has_host() && plain && url.path() == "/"
        });
        // Not quoted: whoever put a password there does not want to read it in a log.
        url.ok_or_else(|| {
            Failure::message(
                Exit::Usage,
                "an --endpoint is https://host:port or http://host:port, without a user, a path or a query",
            )
        })
    }
}

/// A failure to read etcd, with what to do about it.
pub(crate) fn explained(error: EtcdError) -> Failure {
    let remedy = match &error {
        EtcdError::Unavailable(refusals) => refusals.iter().find_map(remedy),
        _ => None,
    };
    let text = match remedy {
        Some(remedy) => format!("{error}\n{remedy}"),
        None => error.to_string(),
    };
    Failure::message(Exit::Unavailable, text)
}

fn remedy(refusal: &Refusal) -> Option<&'static str> {
    Some(match refusal.kind {
        RefusalKind::Tls => {
            "--cacert names the authority of etcd, --cert and --key a client certificate that etcd accepts (kubeadm: /etc/kubernetes/pki/etcd/)"
        }
        RefusalKind::Transport => "is etcd there, and is https:// or http:// right?",
        RefusalKind::NoGateway => {
            "it is off (etcd --enable-grpc-gateway), or this is no etcd; pipe it in instead: etcdctl get --prefix /registry/secrets/ -w json | kms-plugin verify-etcd -"
        }
        RefusalKind::GatewayAlone => {
            "etcd's gateway does not reach etcd: it uses etcd's server certificate as a client, which must allow that (clientAuth); or pipe it in: etcdctl get --prefix /registry/secrets/ -w json | kms-plugin verify-etcd -"
        }
        RefusalKind::Denied => {
            "this etcd wants a user; pipe it in instead: etcdctl --user NAME get --prefix /registry/secrets/ -w json | kms-plugin verify-etcd -"
        }
        RefusalKind::Other => return None,
    })
}

/// Which part of etcd.
#[derive(Debug, clap::Args)]
pub(crate) struct PrefixArgs {
    /// Read keys that begin so; may be repeated [default: secrets/ and configmaps/ below --etcd-prefix]
    #[arg(long = "prefix", value_name = "PREFIX", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    prefixes: Vec<String>,
    /// Read the resources of this EncryptionConfiguration
    #[arg(long, value_name = "FILE", conflicts_with = "prefixes")]
    encryption_config: Option<PathBuf>,
    /// As kube-apiserver has it; on OpenShift /kubernetes.io
    #[arg(long, value_name = "PREFIX", default_value = key::DEFAULT_ROOT)]
    etcd_prefix: String,
}

impl PrefixArgs {
    /// Whether somebody chose what is read.
    pub(crate) fn is_given(&self) -> bool {
        !self.prefixes.is_empty() || self.encryption_config.is_some()
    }

    pub(crate) fn root(&self) -> &str {
        &self.etcd_prefix
    }

    /// The prefixes; none is below another, so that nothing is counted twice.
    pub(crate) fn prefixes(&self) -> Result<Vec<String>, Failure> {
        let mut prefixes = match &self.encryption_config {
            Some(file) => self.of_configuration(file)?,
            None if self.prefixes.is_empty() => ["secrets", "configmaps"]
                .iter()
                .filter_map(|name| key::prefix_of(name, self.root()))
                .collect(),
            None => self.prefixes.clone(),
        };
        prefixes.sort();
        prefixes.dedup_by(|next, before| next.starts_with(before.as_str()));
        Ok(prefixes)
    }

    fn of_configuration(&self, file: &Path) -> Result<Vec<String>, Failure> {
        let wrong =
            |why: EncryptionConfigError| Failure::message(Exit::Usage, format!("{} {why}", file.display()));
        let rules = read(file).map_err(wrong)?;
        let resources = rules.iter().flat_map(|rule| &rule.resources);
        let prefixes: Vec<String> = resources
            .map(|resource| {
                key::prefix_of(resource, self.root()).ok_or_else(|| {
                    let message = format!(
                        "{}: no single prefix in etcd holds {resource:?}: name the prefixes with --prefix",
                        file.display()
                    );
                    Failure::message(Exit::Usage, message)
                })
            })
            .collect::<Result<_, _>>()?;
        match prefixes.is_empty() {
            true => Err(Failure::message(Exit::Usage, format!("{} names no resources", file.display()))),
            false => Ok(prefixes),
        }
    }
}
