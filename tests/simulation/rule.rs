//! The rules that the oracle checks, each with a name, and those that the code does not keep yet.

/// What must always hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Rule {
    /// Decrypt returns the bytes that were wrapped, or an error.
    RightBytes,
    /// A key_id names one key, but within one `key_check_interval` of a re-creation.
    OneKeyPerKeyId,
    /// Nothing is wrapped under a key after its rejection is known.
    NoWrapUnderRejected,
    /// No request creates a key that the agent knows to be missing.
    NoKeyCreated,
    /// What one node writes, the others read within 2 s.
    ReadAfterRotation,
    /// An outage wipes no local KEK before `max_offline`.
    NoEarlyWipe,
    /// A refusal wipes local KEKs within 90 s, while an address answers.
    WipeInTime,
    /// An outage alone never shows as a refusal.
    OutageIsNoRefusal,
    /// A refusal shows in Status within 90 s.
    RefusalShown,
    /// Without an answer from any address, the agent is not ready after 15 s.
    OutageNoticed,
    /// The agent is never without a look at its key service for two minutes.
    NeverBlind,
    /// Background requests stay within the budget.
    Budget,
    /// Ready 10 s after the end of all faults.
    ReadyAgain,
    /// After the end of all faults, every seed can be read.
    ReadableAgain,
    /// No task of an agent ends by itself.
    TasksRun,
}

impl Rule {
    /// Why the code does not keep the rule yet. A violation is then counted and does not fail the run.
    pub(super) fn not_yet(self) -> Option<&'static str> {
        NOT_YET.iter().find(|(rule, _)| *rule == self).map(|(_, why)| *why)
    }
}

/// Rules that the code cannot keep yet. Remove an entry when the code can.
pub(super) const NOT_YET: &[(Rule, &str)] = &[
    (
        Rule::OutageNoticed,
        "a page of a proxy in place of every answer: in one seed of a thousand the agent stays ready",
    ),
    (Rule::Budget, "redirects double the requests of logins, and reads for calls are not the agent's own"),
    (
        Rule::OutageIsNoRefusal,
        "a refusal stands through an outage, on purpose, and the oracle does not know that",
    ),
    (Rule::ReadyAgain, "Retry-After and a pause between logins may last longer than 10 s"),
    (Rule::ReadableAgain, "an agent that is not ready again does not read"),
];

/// Directed scenarios that fail yet, by name.
pub(super) const SCENARIOS_NOT_YET: &[(&str, &str)] = &[];
