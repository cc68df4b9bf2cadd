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
    (Rule::NoEarlyWipe, "a DR secondary counts as a refusal"),
    (Rule::OutageIsNoRefusal, "a DR secondary counts as a refusal"),
    (Rule::OutageNoticed, "an idle agent looks once a minute"),
    (Rule::RefusalShown, "a refusal that turns into another one shows as ok until that is confirmed"),
    (Rule::NeverBlind, "refused credentials and Retry-After stop every look"),
    (Rule::Budget, "no bucket bounds the background requests"),
    (Rule::ReadyAgain, "Retry-After up to an hour; a confirmation that ends well does not clear the fault"),
    (Rule::ReadableAgain, "an agent that is not ready again does not read"),
];

/// Directed scenarios that fail yet, by name.
pub(super) const SCENARIOS_NOT_YET: &[(&str, &str)] = &[
    ("first read 403", "a first read that is refused plans the next one in the past"),
    ("first request 403", "a first read that is refused plans the next one in the past"),
    ("first read 404", "a first read that is refused plans the next one in the past"),
    ("Retry-After, then a refusal", "Retry-After counts up to an hour, and stops every look"),
    ("Retry-After, then well", "Retry-After counts up to an hour, and stops every look"),
    ("DR secondary", "a DR secondary counts as a refusal"),
    ("one DR secondary", "a DR secondary counts as a refusal"),
    ("DR secondary at the start", "a DR secondary counts as a refusal"),
    ("election", "474 counts as an answer of a proxy"),
    ("idle, hang", "an idle agent looks once a minute"),
    ("idle, kill", "an idle agent looks once a minute"),
    ("idle, seal", "an idle agent looks once a minute"),
    ("key deleted for 3 s", "Encrypt is refused from memory"),
    ("key deleted for a minute", "Encrypt is refused from memory"),
    ("right restored, idle", "a confirmation that ends well does not clear the fault"),
    ("key made again, local KEKs", "a read makes a local KEK before the key is judged"),
    ("sys/health blocked", "a blocked sys/health counts as an outage"),
    ("outage budget, kill", "no bucket"),
    ("outage budget, proxy", "no bucket"),
    ("outage budget, seal", "no bucket"),
    ("outage budget, 500", "no bucket"),
    ("outage budget, DR", "no bucket"),
    ("day refused", "a refusal is confirmed at every address each time"),
    ("day refused, local KEKs", "a refusal is confirmed at every address each time"),
    ("day without the key", "a refusal is confirmed at every address each time"),
];
