//! What the agent tells systemd (sd_notify(3)). Without systemd, nothing is sent and nothing fails.

use sd_notify::NotifyState;

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be notified");
    }
}

/// The service serves.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The line that `systemctl status` shows.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// The service ends.
pub fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("stopping: waiting for calls under way")]);
}
