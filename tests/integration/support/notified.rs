//! Stands in for the socket of systemd that receives notifications (sd_notify(3)).

use std::os::unix::net::UnixDatagram;

use super::eventually;

/// The receiver of notifications.
pub struct Notified {
    socket: UnixDatagram,
    directory: tempfile::TempDir,
}

impl Notified {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, directory }
    }

    pub fn path(&self) -> String {
        self.directory.path().join("notify").display().to_string()
    }

    /// The next message that holds `words`; others are skipped.
    pub async fn next(&self, words: &str) -> String {
        eventually(&format!("a notification with {words:?}"), async || {
            let mut buffer = [0; 4096];
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    if text.contains(words) { Ok(text) } else { Err(text) }
                }
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    /// All messages until each of these words was in one, in any order.
    pub async fn all(&self, words: &[&str]) -> String {
        let mut all = String::new();
        for word in words {
            while !all.contains(word) {
                all += &self.next("").await;
                all.push('\n');
            }
        }
        all
    }

    pub fn drain(&self) {
        let mut buffer = [0; 4096];
        while self.socket.recv(&mut buffer).is_ok() {}
    }

    /// Whether no message waits.
    pub fn is_quiet(&self) -> bool {
        self.socket.recv(&mut [0; 64]).is_err()
    }
}
