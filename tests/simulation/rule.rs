//! The rules that the oracle checks, each with a name.

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
    /// A right or a key that is back serves again within 30 s, and within 6 s of a call.
    RestoredInTime,
    /// Ready 10 s after the end of all faults.
    ReadyAgain,
    /// After the end of all faults, every seed can be read.
    ReadableAgain,
    /// The reason of a fault is what is wrong, and so is the reason for a wipe.
    TrueCause,
    /// The verdict is in 10 s after the start of an agent, when its key service answers.
    ReadyInTime,
    /// The list of wrapped keys has only what was made for a key in use, and what is stored.
    ListBounded,
    /// No task of an agent ends by itself.
    TasksRun,
}
