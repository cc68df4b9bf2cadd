//! The way to a server: TCP or a unix socket, a forward proxy, TLS.
//!
//! Must not know the requests. Nothing is taken from the environment.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{ACCEPT, HOST, HeaderMap, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tower::Service as _;
use url::{Position, Url};

use super::{Cause, HttpError, PROGRAM};

/// How long a TCP connection may leave data unacknowledged (tcp(7), TCP_USER_TIMEOUT).
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// After how long a silent TCP connection is asked whether its peer is there, how often, and how many times in vain.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVES: u32 = 3;
/// How the client calls itself.
const AGENT: HeaderValue = HeaderValue::from_static(PROGRAM);
const ANYTHING: HeaderValue = HeaderValue::from_static("*/*");

/// What bytes go over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A forward proxy.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// Where it is reached over TLS.
    tls: Option<Arc<ClientConfig>>,
    place: Uri,
    authorization: Option<HeaderValue>,
}

impl Proxy {
    /// The proxy at `url`, of which only the scheme, the host and the port count, with `tls` if it is `https`.
    /// `authorization` is the value of the
    /// header that the proxy wants.
    ///
    /// # Errors
    /// When the URL has no host.
    pub(crate) fn new(
        url: &Url,
        tls: &Arc<ClientConfig>,
        authorization: Option<HeaderValue>,
    ) -> Result<Self, HttpError> {
        let tls = (url.scheme() == "https").then(|| tls.clone());
        Ok(Self { tls, place: place(url)?, authorization })
    }
}

/// The way to one server.
pub(crate) struct Route {
    base: Url,
    /// What a request's URI begins with. It ends with a slash.
    prefix: String,
    host: HeaderValue,
    /// Where to connect to: host and port.
    place: Uri,
    socket: Option<PathBuf>,
    tls: Option<Arc<ClientConfig>>,
    proxy: Option<Proxy>,
    tcp: HttpConnector,
}

impl Route {
    /// The way to the server of `base`, with `tls` if its scheme is `https`. The path of `base` ends with a slash. Its
    /// host is the name that TLS verifies.
    ///
    /// # Errors
    /// When the URL has no host.
    pub(crate) fn new(base: &Url, tls: &Arc<ClientConfig>) -> Result<Self, HttpError> {
        let place = place(base)?;
        let tls = (base.scheme() == "https").then(|| tls.clone());
        let name = base.host_str().unwrap_or_default();
        let host = base.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        tcp.set_keepalive_retries(Some(KEEPALIVES));
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        Ok(Self {
            prefix: base.path().to_owned(),
            base: base.clone(),
            host: HeaderValue::try_from(host).map_err(HttpError::new)?,
            place,
            socket: None,
            tls,
            proxy: None,
            tcp,
        })
    }

    /// The same over a unix socket.
    pub(crate) fn over_socket(self, socket: PathBuf) -> Self {
        Self { socket: Some(socket), ..self }
    }

    /// The same through a forward proxy.
    pub(crate) fn through(self, proxy: Proxy) -> Self {
        // A proxy without a tunnel is told the whole URI.
        let prefix = if self.tls.is_none() { self.base.to_string() } else { self.prefix };
        Self { proxy: Some(proxy), prefix, ..self }
    }

    /// The same, connected to the host of `url` instead: the name that TLS verifies need not be known to DNS.
    ///
    /// # Errors
    /// When the URL has no host.
    pub(crate) fn by_way_of(self, url: &Url) -> Result<Self, HttpError> {
        Ok(Self { place: place(url)?, ..self })
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The same of `path`, with what must be encoded in it; `None` when that is no URI.
    pub(super) fn joined(&self, path: &str) -> Option<Uri> {
        let url = self.base.join(path).ok()?;
        let begin = if self.prefix.starts_with('/') { Position::BeforePath } else { Position::BeforeScheme };
        Uri::try_from(&url[begin..Position::AfterQuery]).ok()
    }

    /// Adds the headers that each request has on this way.
    pub(super) fn add_headers(&self, headers: &mut HeaderMap) {
        headers.insert(HOST, self.host.clone());
        headers.insert(USER_AGENT, AGENT);
        headers.insert(ACCEPT, ANYTHING);
        if let (None, Some(Proxy { authorization: Some(value), .. })) = (&self.tls, &self.proxy) {
            headers.insert(PROXY_AUTHORIZATION, value.clone());
        }
    }

    /// Makes a connection.
    ///
    /// # Errors
    /// Those of the name's resolution, TCP, the proxy, and TLS.
    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, Cause> {
        let stream: Box<dyn Stream> = match (&self.socket, &self.proxy) {
            (Some(socket), _) => Box::new(UnixStream::connect(socket).await?),
            (None, Some(proxy)) => {
                let to_proxy = to_proxy(self.tcp.clone(), proxy.clone());
                if self.tls.is_some() { self.tunnel(proxy, to_proxy).await? } else { to_proxy.await? }
            }
            (None, None) => tcp(self.tcp.clone(), self.place.clone()).await?,
        };
        match &self.tls {
            Some(tls) => shake_hands(tls, self.base.host_str().unwrap_or_default(), stream).await,
            None => Ok(stream),
        }
    }

    /// A tunnel through the proxy, by CONNECT.
    async fn tunnel(
        &self,
        proxy: &Proxy,
        to_proxy: impl Future<Output = Result<Box<dyn Stream>, Cause>> + Send + 'static,
    ) -> Result<Box<dyn Stream>, Cause> {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, AGENT);
        if let Some(value) = &proxy.authorization {
            headers.insert(PROXY_AUTHORIZATION, value.clone());
        }
        // It is called once.
        let mut to_proxy = Some(to_proxy);
        let connector = tower::service_fn(move |_: Uri| {
            let to_proxy = to_proxy.take();
            async move {
                match to_proxy {
                    Some(to_proxy) => to_proxy.await.map(TokioIo::new),
                    None => Err(Cause::from("the proxy was asked for a second connection")),
                }
            }
        });
        let mut tunnel = Tunnel::new(proxy.place.clone(), connector).with_headers(headers);
        Ok(Box::new(tunnel.call(self.place.clone()).await?.into_inner()))
    }
}

async fn tcp(mut connector: HttpConnector, place: Uri) -> Result<Box<dyn Stream>, Cause> {
    Ok(Box::new(connector.call(place).await?.into_inner()))
}

async fn to_proxy(connector: HttpConnector, proxy: Proxy) -> Result<Box<dyn Stream>, Cause> {
    let stream = tcp(connector, proxy.place.clone()).await?;
    match &proxy.tls {
        Some(tls) => shake_hands(tls, proxy.place.host().unwrap_or_default(), stream).await,
        None => Ok(stream),
    }
}

async fn shake_hands(
    tls: &Arc<ClientConfig>,
    host: &str,
    stream: Box<dyn Stream>,
) -> Result<Box<dyn Stream>, Cause> {
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    Ok(Box::new(TlsConnector::from(tls.clone()).connect(name, stream).await?))
}

/// Where to connect to for a URL, as the connector for TCP takes it.
fn place(url: &Url) -> Result<Uri, HttpError> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    Uri::try_from(format!("http://{host}:{port}/")).map_err(HttpError::new)
}
