//! What a key service reports of itself: its addresses and its token.

/// How one address of the service last answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressState {
    /// The address as configured, without userinfo.
    pub address: String,
    /// `None` before the first attempt.
    pub reachable: Option<bool>,
    /// Why it is not reachable.
    pub reason: Option<String>,
    /// Whether calls try it first.
    pub preferred: bool,
}

/// The state of our token, without the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenState {
    /// The login method's name.
    pub method: &'static str,
    /// Whether a token is held.
    pub held: bool,
    /// When it ends, in seconds since 1970; `None` when it does not end.
    pub expires: Option<i64>,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// How many logins succeeded since the start.
    pub logins: u64,
    /// What is wrong with renewal or login, while the token still serves.
    pub problem: Option<String>,
    /// A hash of the credentials that were refused last, and will not be sent again soon; for root alone.
    pub refused: Option<String>,
}
