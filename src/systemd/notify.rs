//! Notifications to systemd (sd_notify(3)). Without systemd, nothing is sent and nothing fails.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::untrusted;

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be notified");
    }
}

/// Whether systemd started this process as a service that notifies it (`Type=notify`).
pub(crate) fn is_expected() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The service starts, and needs at most this long until it is ready: systemd extends its start timeout.
pub(crate) fn starting(at_most: Duration) {
    send(&[NotifyState::ExtendTimeoutUsec(micros(at_most))]);
}

/// The service serves. This does not report the state of the agent: [`status`] does.
pub(crate) fn ready() {
    send(&[NotifyState::Ready]);
}

/// The line that `systemctl status` shows. Each line of a message is a command to systemd, so a status with a newline
/// is refused: it becomes one line, without other hidden characters.
pub(crate) fn status(status: &str) {
    send(&[NotifyState::Status(&one_line(status))]);
}

/// A reload starts; [`ready`] ends it. `Type=notify-reload` needs the time.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "the monotonic clock cannot be read"),
    }
}

/// The service stops, and needs at most this long: systemd extends its stop timeout.
pub(crate) fn stopping(at_most: Duration) {
    send(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros(at_most))]);
}

/// The service works. Call it more often than [`watchdog_interval`].
pub(crate) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// The longest time between two calls of [`alive`] (`WatchdogSec=`); `None` without a watchdog.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// The field of the protocol holds at most 71 minutes.
fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// A status that is one assignment of the protocol.
fn one_line(status: &str) -> String {
    untrusted::visible(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_status_is_one_assignment(text in crate::untrusted::tests::hostile()) {
            let message = NotifyState::Status(&one_line(&text)).to_string();
            proptest::prop_assert!(message.trim_end_matches('\n').lines().count() <= 1, "{message:?}");
        }
    }
}
