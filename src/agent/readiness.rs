//! When the agent tells systemd that it is ready. The kubelet starts after that, so READY must come as soon as waiting
//! longer cannot help, and it must not wait for the key service for ever.

use std::time::Duration;

use tokio::sync::watch;

use crate::health::{Announce, Snapshot};
use crate::kms::View;
use crate::systemd::notify;

/// Notifies systemd when the verdict about the key service is in, and after `timeout` at the latest.
pub(super) async fn run(mut views: watch::Receiver<View>, timeout: Duration) {
    let decided = views.wait_for(|view| is_decided(&view.snapshot));
    let _in_time = tokio::time::timeout(timeout, decided).await.is_ok();
    notify::ready();
}

/// Whether a longer wait would not change what the API server gets: a round trip has worked; or Status is ok already,
/// with the identity of an earlier run; or a refusal is confirmed, which only an administrator can end.
pub(super) fn is_decided(snapshot: &Snapshot) -> bool {
    snapshot.verified || matches!(snapshot.announce, Announce::Ok | Announce::Refused)
}
