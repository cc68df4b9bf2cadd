//! The flags for a cluster's API servers.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::exit::{Exit, Failure};
use crate::cluster::{Connection, ConnectionError, Login};
use crate::rewrite;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// Kubeconfig [default: KUBECONFIG, ~/.kube/config, in a pod the service account]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// An API server's own address; once for each [default: those that they publish]
    #[arg(long = "api-server", value_name = "URL", value_parser = url)]
    api_servers: Vec<Url>,
    /// The name in the certificates of the API servers [default: the address, or kubernetes.default.svc for an address
    /// that they publish]
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
    /// Time for each answer of an API server
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    request_timeout: Duration,
}

fn url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).ok().filter(|url| {
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        url.scheme() == "https" && url.has_host() && plain && url.path() == "/"
    });
    url.ok_or("is not https://host:port")
}

impl ClusterArgs {
    /// The connection of the kubeconfig or the service account.
    pub(crate) async fn connection(&self) -> Result<Connection, Failure> {
        if self.request_timeout.is_zero() {
            return Err(Failure::message(Exit::Usage, "--request-timeout must be longer than zero"));
        }
        let login = Login { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() };
        let opened = Connection::open(&login, self.request_timeout).await;
        opened.map_err(|error: ConnectionError| Failure::new(Exit::Unavailable, error))
    }

    /// A connection to each API server, at its own address.
    pub(crate) async fn servers(&self, connection: &Connection) -> Result<Vec<Connection>, Failure> {
        let found = rewrite::servers(connection, &self.api_servers, self.tls_server_name.as_deref()).await;
        let found = found.map_err(|error| Failure::new(Exit::Unavailable, error))?;
        if found.is_empty() {
            return Err(Failure::message(
                Exit::Unavailable,
                "the API servers publish no address of their own (the service kubernetes has no endpoints): name each with --api-server",
            ));
        }
        Ok(found)
    }
}
