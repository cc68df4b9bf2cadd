//! What a key service reports about itself: its addresses and its token.

/// How one address of the service last answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressState {
    /// The address as configured, without userinfo.
    pub address: String,
    /// `None` before the first attempt.
    pub reachable: Option<bool>,
    /// Why it is not reachable.
    pub reason: Option<String>,
    /// Whether calls try it first.
    pub preferred: bool,
}

/// The state of the agent's token, without the token itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenState {
    /// Name of the login method.
    pub method: &'static str,
    /// Whether the agent needs one: a proxy may add its own to each request.
    pub needed: bool,
    /// Whether there is a token.
    pub held: bool,
    /// When it expires, in seconds since 1970; `None` if it does not expire.
    pub expires: Option<i64>,
    pub renewable: bool,
    /// Successful logins since the start.
    pub logins: u64,
    /// Why the last renewal or login failed, while the token is still valid.
    pub problem: Option<String>,
    /// A salted hash of the credentials that were refused last. The agent does not send them again for a while. Only
    /// root may see it.
    pub refused: Option<String>,
    /// The same of the credentials of the last login that succeeded.
    pub accepted: Option<String>,
}
