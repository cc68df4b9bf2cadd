//! The line that `systemctl status` shows.

use tokio::sync::watch;

use super::error::TaskError;
use crate::kms::View;
use crate::systemd::notify;

/// Sends the line of the state to systemd whenever it changes. Nobody else sends it: of two senders, the later could
/// carry the older line.
pub(super) async fn run(mut views: watch::Receiver<View>) -> Result<(), TaskError> {
    let mut sent = String::new();
    loop {
        let line = views.borrow_and_update().snapshot.line();
        if line != sent {
            notify::status(&line);
            sent = line;
        }
        views.changed().await.map_err(|_| TaskError::NoPublisher)?;
    }
}
