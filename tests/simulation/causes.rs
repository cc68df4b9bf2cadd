//! What was lately wrong in the model, and whether the reason that an agent gives is one of that.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::model::effect::{Effect, Trouble};
use super::model::service::Service;
use crate::health::{Reason, ReasonKind};

/// How long a cause may be named after its end.
const AFTERMATH: Duration = Duration::from_secs(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    /// No answer, or one that says that the server cannot serve.
    Outage,
    /// A page of something else than the server.
    Page,
    Sealed,
    /// A right, the token or the role is gone.
    Refusal,
    /// The credentials are wrong, or their role is locked.
    Credentials,
    KeyMissing,
    /// A version of the key is not there, on one replica at least.
    Versions,
}

/// When each cause last held, for one node, and whether another key was ever under the name.
#[derive(Default)]
pub(super) struct Causes {
    last: BTreeMap<Cause, Instant>,
    pub replaced: bool,
}

impl Causes {
    pub(super) fn note(&mut self, service: &Service, node: usize, secret_id: &str) {
        let mut note = |cause| self.last.insert(cause, Instant::now());
        for (_, effect) in &service.effects {
            match effect {
                Effect::Path { node: Some(of), .. } if *of != node => continue,
                Effect::Path { trouble: Trouble::Page(_) | Trouble::NoHealth(_), .. } => {
                    note(Cause::Page);
                    note(Cause::Outage)
                }
                Effect::Path { .. }
                | Effect::NoLeader(_)
                | Effect::Disaster(_)
                | Effect::Throttled(_)
                | Effect::Broken => note(Cause::Outage),
                Effect::Sealed(_) => note(Cause::Sealed),
                Effect::Removed(_) => {
                    note(Cause::Sealed);
                    note(Cause::Outage)
                }
                Effect::RightsLost { .. } => note(Cause::Refusal),
                Effect::RoleLocked => note(Cause::Credentials),
                Effect::KeyDeleted => note(Cause::KeyMissing),
                Effect::SoftDeleted => {
                    note(Cause::KeyMissing);
                    note(Cause::Versions)
                }
                Effect::Lag(_) | Effect::MinVersions(..) => note(Cause::Versions),
                Effect::Replaced(_) | Effect::RolledBack(_) => {
                    self.replaced = true;
                    note(Cause::Versions)
                }
            };
        }
        if service.created_by.is_some() {
            // It was missing until then.
            note(Cause::KeyMissing);
        }
        if service.role.secret_id != secret_id || service.role.is_locked() {
            note(Cause::Credentials);
        }
        // The server itself said no: whatever the reason is, it was not an outage.
        if service.refused.contains(&node) {
            note(Cause::Refusal);
        }
    }

    /// Whether something else than the server lately answered for its health: it is then asked for less often.
    pub(super) fn blocks_health(&self) -> bool {
        self.last.get(&Cause::Page).is_some_and(|at| at.elapsed() < AFTERMATH)
    }

    /// Starts the times again: the machines were suspended.
    pub(super) fn suspended(&mut self) {
        self.last.values_mut().for_each(|at| *at = Instant::now());
    }

    /// Whether no address is blamed for a page that nobody ever sent. What is said of an address that is not asked
    /// any more stays.
    pub(super) fn fit_addresses(&self, shown: &str) -> bool {
        !blames_page(shown) || self.last.contains_key(&Cause::Page)
    }

    /// Whether the reason names what was lately wrong.
    pub(super) fn fit(&self, reason: &Reason) -> bool {
        let lately = |cause| self.last.get(&cause).is_some_and(|at| at.elapsed() < AFTERMATH);
        let refusal = lately(Cause::Refusal) || lately(Cause::Credentials);
        (!blames_page(&reason.text) || lately(Cause::Page))
            && match reason.kind {
                ReasonKind::NoContact => true,
                ReasonKind::Unreachable if reason.text.contains("the last tokens ended soon") => refusal,
                ReasonKind::Unreachable => lately(Cause::Outage) || lately(Cause::Sealed),
                ReasonKind::Sealed => lately(Cause::Sealed),
                ReasonKind::Denied | ReasonKind::LockedOut | ReasonKind::LoginDenied => refusal,
                ReasonKind::CredentialsRefused => lately(Cause::Credentials),
                ReasonKind::KeyMissing => lately(Cause::KeyMissing),
                ReasonKind::KeyUnusable => lately(Cause::Versions) || self.replaced,
                ReasonKind::KeyReplaced | ReasonKind::KeyRolledBack => self.replaced,
                ReasonKind::KeyUnreadable => refusal || lately(Cause::KeyMissing),
                ReasonKind::WrongSetting
                | ReasonKind::CredentialsUnreadable
                | ReasonKind::KeyNotApproved
                | ReasonKind::Configuration => false,
            }
    }
}

/// Whether a text says that something else than the server has answered.
fn blames_page(text: &str) -> bool {
    text.contains("not in Vault's form") || text.contains("not as Vault does")
}
