//! What the agent tells systemd (sd_notify(3)). Without systemd, nothing is sent and nothing fails.

use std::time::Duration;

use sd_notify::NotifyState;

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be notified");
    }
}

/// The service starts, and may take this long until it is ready: the unit's own limit is extended by it.
pub(crate) fn starting(at_most: Duration) {
    send(&[NotifyState::ExtendTimeoutUsec(micros(at_most))]);
}

/// The service serves. Says nothing of its state: whoever follows the state sends [`status`].
pub(crate) fn ready() {
    send(&[NotifyState::Ready]);
}

/// The line that `systemctl status` shows.
pub(crate) fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// The configuration is being read again; [`ready`] ends that (`Type=notify-reload` wants the time).
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "the monotonic clock cannot be read"),
    }
}

/// The service ends, and may take this long: the unit's own limit is extended by it.
pub(crate) fn stopping(at_most: Duration) {
    send(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros(at_most))]);
}

/// The service lives. To be sent more often than [`watchdog_interval`].
pub(crate) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often systemd wants to hear that we live (`WatchdogSec=`), if it does.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// At most what the protocol's field holds: 71 minutes.
fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
