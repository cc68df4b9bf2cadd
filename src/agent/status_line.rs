//! The line that `systemctl status` shows.

use tokio::sync::watch;

use super::error::TaskError;
use crate::kms::View;
use crate::systemd::notify;

/// Sends the line to systemd when it changes. Only this task sends it: with two senders, an older line could come
/// last.
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
