//! A signal that the shown state of a key service has changed.
//!
//! Must not know what changed, nor who shows it.

use tokio::sync::{Mutex, watch};

/// Sends the signal. Send it after the change, and only if something changed: the agent publishes its whole state
/// after each signal. It would publish all the time if each call sent a signal.
#[derive(Debug, Default)]
pub(super) struct Changes(watch::Sender<()>);

impl Changes {
    pub(super) fn notify(&self) {
        self.0.send_replace(());
    }

    /// Each receiver gets every signal: two key services may share one client.
    pub(super) fn subscribe(&self) -> ChangeReceiver {
        ChangeReceiver(Mutex::new(self.0.subscribe()))
    }
}

/// Receives the signal. Signals between two calls are not lost; several are reported as one.
#[derive(Debug)]
pub(super) struct ChangeReceiver(Mutex<watch::Receiver<()>>);

impl ChangeReceiver {
    pub(super) async fn changed(&self) {
        if self.0.lock().await.changed().await.is_err() {
            // The sender is gone: nothing changes any more.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_signal_reaches_each_receiver_once() {
        let changes = Changes::default();
        let (one, other) = (changes.subscribe(), changes.subscribe());
        assert!(one.changed().now_or_never().is_none());
        changes.notify();
        changes.notify();
        for receiver in [one, other] {
            assert!(receiver.changed().now_or_never().is_some());
            assert!(receiver.changed().now_or_never().is_none(), "two signals together are one");
        }
    }
}
