//! Stands in for the socket of systemd that receives notifications (sd_notify(3)).

use std::collections::VecDeque;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::eventually;

/// A message that ends the receiver.
const END: &str = "X_TEST_END=1";

/// The receiver of notifications.
pub struct Notified {
    directory: tempfile::TempDir,
    messages: Arc<Mutex<VecDeque<String>>>,
    receiver: Option<JoinHandle<()>>,
}

impl Notified {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let messages = Arc::<Mutex<VecDeque<String>>>::default();
        let received = messages.clone();
        // A thread, as in systemd: an agent waits when its messages are not received, and few fit into the socket.
        let receive = move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if text == END {
                    return;
                }
                received.lock().unwrap().push_back(text);
            }
        };
        Self { directory, messages, receiver: Some(std::thread::spawn(receive)) }
    }

    pub fn path(&self) -> String {
        self.directory.path().join("notify").display().to_string()
    }

    /// The next message that holds `words`; others are skipped.
    pub async fn next(&self, words: &str) -> String {
        let mut skipped = Vec::new();
        eventually(&format!("a notification with {words:?}"), async || {
            while let Some(message) = self.pop() {
                if message.contains(words) {
                    return Ok(message);
                }
                skipped.push(message);
            }
            Err(format!("only {skipped:?}"))
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
        self.messages.lock().unwrap().clear();
    }

    /// Whether no message has come since the last one that was taken.
    pub fn is_quiet(&self) -> bool {
        self.messages.lock().unwrap().is_empty()
    }

    fn pop(&self) -> Option<String> {
        self.messages.lock().unwrap().pop_front()
    }
}

impl Drop for Notified {
    fn drop(&mut self) {
        let _sent = UnixDatagram::unbound().unwrap().send_to(END.as_bytes(), self.path());
        let _ended = self.receiver.take().map(JoinHandle::join);
    }
}
