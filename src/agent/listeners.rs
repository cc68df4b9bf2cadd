//! What the agent listens on: the KMS socket, the private socket of the watchdog, and the admin API. All of it is
//! bound before anything is served, so that a start fails as a whole.

use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};

use super::error::AgentError;
use crate::admin;
use crate::config::server::Server;
use crate::local_kek::Cache;
use crate::socket::{Acceptor, BoundSocket, SocketError};
use crate::systemd::activation::{self, Passed};

/// Name of the watchdog's private socket in the runtime directory.
const WATCHDOG_SOCKET: &str = "watchdog.sock";

/// What systemd passed to this process: the KMS socket at `socket`, and the keys that it holds. Call it once.
///
/// # Errors
/// When systemd passed sockets, and none of them is the KMS socket.
pub(crate) fn passed(socket: &Path) -> Result<Passed, AgentError> {
    let passed = activation::take(Cache::store_prefix());
    Ok(passed.map_err(|cause| SocketError::not_adopted(socket, cause))?)
}

/// The bound listeners.
pub(super) struct Listeners {
    pub kms: Acceptor,
    pub kms_path: PathBuf,
    /// The watchdog calls the KMS server through this one: the KMS socket may belong to root.
    pub watchdog: Acceptor,
    pub watchdog_path: PathBuf,
    pub admin_socket: Arc<UnixListener>,
    /// Removes the admin socket when it is dropped.
    pub admin_socket_file: BoundSocket,
    /// The admin address; `None` where it is turned off.
    pub admin_address: Option<Arc<TcpListener>>,
}

impl Listeners {
    /// Binds everything, or takes over the KMS socket that systemd `passed`.
    ///
    /// # Errors
    /// When something cannot be bound. Then nothing is left behind.
    pub(super) async fn bind(server: &Server, passed: Option<StdListener>) -> Result<Self, AgentError> {
        let kms = Acceptor::open(&server.socket, passed)?;
        let watchdog_path = server.runtime_dir.join(WATCHDOG_SOCKET);
        let watchdog = Acceptor::bind(&watchdog_path)?;
        let admin_socket_file = BoundSocket::bind(&server.runtime_dir.join(admin::client::SOCKET))?;
        let admin_address = match server.admin {
            Some(address) => Some(Arc::new(bind_address(address).await?)),
            None => None,
        };
        let admin_socket = listen(&admin_socket_file, &server.runtime_dir)?;
        Ok(Self {
            kms,
            kms_path: server.socket.clone(),
            watchdog,
            watchdog_path,
            admin_socket: Arc::new(admin_socket),
            admin_socket_file,
            admin_address,
        })
    }

    /// The admin address; with port 0 configured, with the port that the system chose.
    pub(super) fn admin(&self) -> Option<SocketAddr> {
        self.admin_address.as_ref()?.local_addr().ok()
    }
}

async fn bind_address(address: SocketAddr) -> Result<TcpListener, AgentError> {
    TcpListener::bind(address).await.map_err(|cause| AgentError::Admin { address, cause })
}

fn listen(bound: &BoundSocket, runtime_dir: &Path) -> Result<UnixListener, AgentError> {
    let listener = bound.listener().and_then(UnixListener::from_std);
    listener.map_err(|cause| AgentError::RuntimeDir { path: runtime_dir.to_path_buf(), cause })
}
