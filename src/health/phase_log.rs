//! Logs the changes of the state: one line for each, at the priority of the new phase.

use super::snapshot::{Phase, ServiceState, Snapshot};

/// Logs a change of the phase or of the kind of the reason. The message is the short line. The fields have the reason
/// in full, and the long remedy.
pub(super) fn log_phase(before: &Snapshot, now: &Snapshot) {
    let kind = |snapshot: &Snapshot| snapshot.reason.as_ref().map(|reason| reason.kind);
    if (before.phase, kind(before)) == (now.phase, kind(now)) {
        return;
    }
    let line = now.line();
    let Some(reason) = &now.reason else {
        tracing::info!(KMS_REASON = "none", "{line}");
        return;
    };
    let (kind, cause, remedy) = (reason.kind.name(), reason.text.as_str(), reason.remedy.as_str());
    match now.phase {
        Phase::Failed => tracing::error!(KMS_REASON = kind, KMS_CAUSE = cause, KMS_REMEDY = remedy, "{line}"),
        Phase::Degraded | Phase::Starting => {
            tracing::warn!(KMS_REASON = kind, KMS_CAUSE = cause, KMS_REMEDY = remedy, "{line}");
        }
        Phase::Ready | Phase::Stopping => {
            tracing::info!(KMS_REASON = kind, KMS_CAUSE = cause, KMS_REMEDY = remedy, "{line}")
        }
    }
}

/// Logs each configured namespace that a key service ignores, once it is known.
pub(super) fn log_namespaces(before: &Snapshot, now: &Snapshot) {
    let known: Vec<_> = services(before).filter_map(|service| service.ignored_namespace.as_ref()).collect();
    for service in services(now) {
        if let Some(warning) = service.ignored_namespace.as_ref().filter(|warning| !known.contains(warning)) {
            tracing::warn!(
                KMS_REASON = "namespace_ignored",
                KMS_REMEDY = warning.remedy,
                "{}: {}",
                service.name,
                warning.text
            );
        }
    }
}

fn services(snapshot: &Snapshot) -> impl Iterator<Item = &ServiceState> {
    std::iter::once(&snapshot.primary).chain(&snapshot.decrypt_only)
}
