//! The state of a session, and the events and effects of its step.
//!
//! Must not do I/O and must not read a clock. Callers are numbers here: the actor knows who they are.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::token::{Lease, Token};
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::secret::Fingerprint;

/// How often the files are checked for changes.
pub(super) const FILE_CHECK: Duration = Duration::from_secs(2);
/// A token that becomes invalid sooner than this after its login delays the next login.
pub(super) const EARLY: Duration = Duration::from_secs(60);
/// How old the token of a login must be before another one is tried instead, when the server has accepted none of the
/// last ones: first, and doubled each time up to [`EARLY`]. They may all have been revoked before their first use.
const FIRST_DENIAL: Duration = Duration::from_secs(4);

/// A caller who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Waiter(pub u64);

/// What a caller gets.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// The token to use from now on.
    Token(Arc<Token>),
    /// The refused token is as good as a new one would be: the reason of the refusal is the policy or the key.
    NoBetterToken,
    Failed(KeyServiceError),
}

/// Files that are checked for changes. They are apart, so that a file system that hangs delays only its own files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Files {
    Credentials,
    Tls,
}

/// The end of a renewal.
#[derive(Clone, Debug)]
pub(super) enum Renewal {
    /// `at` is when it was requested.
    Granted {
        at: Instant,
        ttl: Option<Duration>,
        renewable: bool,
    },
    /// The policy may deny renewals. If the token itself is invalid, its next use shows that.
    Refused {
        at: Instant,
    },
    /// The server says that it does not know the token.
    Dead,
    Failed(KeyServiceError),
}

/// The server refused `path` to the token of this generation, at this time. The caller waits to hear what to do.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub waiter: Waiter,
    pub generation: u64,
    pub path: String,
    /// Whether the server said that it does not know the token.
    pub dead: bool,
    pub at: Instant,
}

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// A caller needs a token.
    Wanted(Waiter),
    /// A caller needs a newer token than the one of this generation, or the result of a login that tried to get it.
    NewerWanted {
        waiter: Waiter,
        generation: u64,
    },
    Refused(Refusal),
    /// The server accepted the token of this generation at `path`.
    Accepted {
        generation: u64,
        path: String,
    },
    /// A token with limited uses was used.
    Used {
        generation: u64,
    },
    FilesChecked {
        files: Files,
        changed: bool,
    },
    /// The fingerprint of the credentials that a login would send.
    CredentialsRead(Result<Fingerprint, KeyServiceError>),
    LoginEnded(Result<Token, KeyServiceError>),
    RenewalEnded {
        generation: u64,
        renewal: Renewal,
    },
    /// Whether the server knows the token and lets it look itself up.
    LookupEnded {
        generation: u64,
        valid: Result<bool, KeyServiceError>,
    },
    /// The key service answers for its health again.
    CameBack,
    /// The time that [`State::wake_at`] named has come.
    Tick,
}

/// What the actor does for the state.
#[derive(Debug)]
pub(super) enum Effect {
    CheckFiles(Files),
    ReadCredentials,
    LogIn,
    Renew(Arc<Token>),
    Lookup(Arc<Token>),
    Answer(Waiter, Answer),
    Report(Report),
}

/// What people should know.
#[derive(Clone, Debug)]
pub(super) enum Report {
    LoggedIn {
        ttl: Option<Duration>,
    },
    LoginFailed {
        error: KeyServiceError,
        token_held: bool,
    },
    /// The server refused the credentials.
    CredentialsRefused(KeyServiceError),
    TokenDead,
    /// The token will expire, and nothing can be done about it here.
    CannotRenew,
}

/// How far a login is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Idle,
    /// Tokens end early: it begins at this time.
    Delayed(Instant),
    /// It waits for the check of the credential files, which belongs to it: a change that the check finds causes no
    /// other login.
    CheckingFiles,
    ReadingCredentials,
    /// The credentials with this fingerprint are on their way.
    Sent(Fingerprint),
}

/// Credentials that the server refused.
#[derive(Clone, Debug)]
pub(super) struct RefusedCredentials {
    pub fingerprint: Fingerprint,
    /// Until then they are not sent again.
    pub until: Instant,
    pub error: KeyServiceError,
}

/// Logins.
#[derive(Debug, Default)]
pub(super) struct Logins {
    pub stage: Stage,
    /// Something changed after this login had read its input: another one must follow.
    pub again: bool,
    /// Successful ones.
    pub count: u64,
    pub refused: Option<RefusedCredentials>,
    /// Those of the last login that succeeded.
    pub accepted: Option<Fingerprint>,
    /// Whether the last token became invalid soon after its login.
    pub ended_early: bool,
    /// Delayed logins in a row.
    pub delays: u32,
    /// The last login failed in an outage: the next one waits until then.
    pub not_before: Option<Instant>,
    /// Logins in a row that failed in an outage.
    pub outages: u32,
    pub waiters: Vec<Waiter>,
}

/// When the held token is renewed or replaced.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    pub due: Option<Instant>,
    pub renewing: bool,
    /// Failed attempts in a row.
    pub failures: u32,
}

/// What the server has said about tokens.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// The newest token that the server accepted.
    pub accepted: u64,
    /// The token of a recent login that the server has never accepted: its generation, and the path that was refused.
    pub denied_fresh: Option<(u64, String)>,
    /// How many tokens of logins in a row the server has never accepted.
    pub denials: u32,
    /// The token that was last found valid after a refusal, and when.
    pub last: Option<(u64, Instant)>,
    /// The check that is running: the generation, and the path of the first refusal.
    pub running: Option<(u64, String)>,
    pub waiters: Vec<Refusal>,
}

/// Everything that a session knows.
#[derive(Debug)]
pub(super) struct State {
    /// Whether the login method can get a new token.
    pub logs_in: bool,
    pub token: Option<Arc<Token>>,
    /// Uses of the held token, where they are limited.
    pub uses: u64,
    /// Why the last login failed; `None` when it succeeded.
    pub failure: Option<KeyServiceError>,
    /// The problem with renewal or login that people see.
    pub problem: Option<String>,
    pub logins: Logins,
    pub schedule: Schedule,
    pub checks: Checks,
    pub next_file_check: Instant,
    /// Checks that are running: of the credentials, and of the TLS files.
    pub checking: (bool, bool),
}

/// What everybody may read of the state at any time.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    pub token: Option<Arc<Token>>,
    pub logins: u64,
    pub problem: Option<String>,
    pub refused: Option<Fingerprint>,
    pub accepted_credentials: Option<Fingerprint>,
    /// As in [`Checks`]: a caller sees here whether a success is news.
    pub accepted: u64,
    /// Whether the next login waits since the last tokens ended soon after their login.
    pub tokens_end_early: bool,
    pub denied_fresh: Option<(u64, String)>,
    /// Whether an actor keeps the token. `kms-plugin check` has none, and no login follows there.
    pub maintained: bool,
}

impl State {
    pub(super) fn new(logs_in: bool, now: Instant) -> Self {
        Self {
            logs_in,
            token: None,
            uses: 0,
            failure: None,
            problem: None,
            logins: Logins::default(),
            schedule: Schedule::default(),
            checks: Checks::default(),
            next_file_check: now + FILE_CHECK,
            checking: (false, false),
        }
    }

    /// When the next [`Event::Tick`] is needed.
    pub(super) fn wake_at(&self) -> Instant {
        let login = match self.logins.stage {
            Stage::Delayed(until) => Some(until),
            Stage::Idle if !self.schedule.renewing => self.schedule.due,
            _ => None,
        };
        login.map_or(self.next_file_check, |at| at.min(self.next_file_check))
    }

    /// Whether a new login cannot help against a refusal: the token is of a recent login, it has not expired, and the
    /// server has never accepted it. Another login is tried later: see [`FIRST_DENIAL`].
    pub(super) fn is_denied_fresh(&self, token: &Token, now: Instant) -> bool {
        let window =
            FIRST_DENIAL.saturating_mul(1 << self.checks.denials.saturating_sub(1).min(8)).min(EARLY);
        self.checks.denied_fresh.as_ref().is_some_and(|(generation, _)| *generation == token.generation)
            && now.saturating_duration_since(token.born) < window
            && token.lease.end().is_none_or(|end| end > now)
    }

    /// Forgets callers who no longer wait.
    pub(super) fn retain_waiters(&mut self, waits: impl Fn(Waiter) -> bool) {
        self.logins.waiters.retain(|waiter| waits(*waiter));
        self.checks.waiters.retain(|refusal| waits(refusal.waiter));
    }

    /// Replaces the lease of the held token.
    pub(super) fn set_lease(&mut self, lease: Lease) {
        self.token = self.token.as_ref().map(|token| Arc::new(token.with_lease(lease)));
    }

    pub(super) fn status(&self) -> Status {
        Status {
            token: self.token.clone(),
            logins: self.logins.count,
            problem: self.problem.clone(),
            // Those of a login that was only denied may be right.
            refused: self
                .logins
                .refused
                .as_ref()
                .filter(|refused| refused.error.kind() == ErrorKind::CredentialsRefused)
                .map(|refused| refused.fingerprint),
            accepted_credentials: self.logins.accepted,
            accepted: self.checks.accepted,
            tokens_end_early: matches!(self.logins.stage, Stage::Delayed(_)) && self.logins.delays > 0,
            denied_fresh: self.checks.denied_fresh.clone(),
            maintained: true,
        }
    }
}
