//! A TCP proxy in front of a server, which can fail as a network does.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How the proxy treats its connections. `Refuse` also ends the open ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    Pass,
    /// Each answer comes this much later.
    Slow(Duration),
    /// Connections stay open, and nothing is answered.
    BlackHole,
    /// The connection is reset after so many bytes of the first answer.
    ResetAfter(usize),
    /// Every connection is reset at once.
    Refuse,
    /// Every request is answered with this, and the connection closed.
    Answer(&'static str),
}

/// The proxy.
pub struct Proxy {
    pub address: String,
    mode: watch::Sender<Mode>,
}

impl Proxy {
    /// Starts one on a free loopback port in front of `http://host:port`.
    pub async fn before(target: &str) -> Self {
        Self::at("127.0.0.1:0", target).await
    }

    /// Starts one on this address of loopback.
    pub async fn at(address: &str, target: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mode = watch::channel(Mode::Pass).0;
        let (target, watched) = (Arc::<str>::from(target.trim_start_matches("http://")), mode.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, target.clone(), watched.subscribe()));
            }
        });
        Self { address, mode }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn connection(mut client: TcpStream, target: Arc<str>, mut mode: watch::Receiver<Mode>) {
    let mut request = vec![0; 64 * 1024];
    let mut answer = vec![0; 64 * 1024];
    let current = *mode.borrow_and_update();
    if current == Mode::Refuse {
        return reset(client);
    }
    let Ok(mut server) = TcpStream::connect(&*target).await else { return };
    let mut left = match current {
        Mode::ResetAfter(bytes) => bytes,
        _ => usize::MAX,
    };
    loop {
        tokio::select! {
            read = client.read(&mut request) => {
                let Ok(length @ 1..) = read else { return };
                let now = *mode.borrow();
                match now {
                    Mode::BlackHole => {}
                    Mode::Answer(text) => {
                        let _gone = client.write_all(text.as_bytes()).await;
                        let _gone = client.shutdown().await;
                        return;
                    }
                    _ => if server.write_all(&request[..length]).await.is_err() { return },
                }
            }
            read = server.read(&mut answer) => {
                let Ok(length @ 1..) = read else { return };
                let now = *mode.borrow();
                match now {
                    Mode::BlackHole => continue,
                    Mode::Slow(delay) => tokio::time::sleep(delay).await,
                    _ => {}
                }
                let part = length.min(left);
                if client.write_all(&answer[..part]).await.is_err() { return }
                left -= part;
                if left == 0 { return reset(client) }
            }
            changed = mode.changed() => {
                let now = *mode.borrow_and_update();
                if changed.is_err() { return }
                match now {
                    Mode::Refuse => return reset(client),
                    Mode::ResetAfter(bytes) => left = bytes,
                    _ => {}
                }
            }
        }
    }
}

/// Closes with a reset instead of an orderly end.
fn reset(stream: TcpStream) {
    let _set = stream.set_zero_linger();
}
