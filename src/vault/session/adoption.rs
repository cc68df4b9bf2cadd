//! The token of a file: whether the server knows it, and its lease.

use tokio::time::Instant;

use super::super::token::{Lease, Token, lease};
use super::requests::{LOOKUP, Looked, Requests};
use crate::clock::Deadline;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::secret::Secret;

impl Requests {
    /// Uses a token that was created elsewhere. A lookup gives its lease.
    pub(super) async fn adopt(
        &self,
        secret: Secret,
        granted: Instant,
        deadline: Deadline,
    ) -> Result<Token, KeyServiceError> {
        let lookup = match self.look_up(Some(&secret), deadline).await? {
            Looked::Found(lookup) => lookup,
            Looked::NotAllowed => {
                return Err(KeyServiceError::new(
                    ErrorKind::Denied,
                    format!("the policies of the token in the token file do not allow {LOOKUP}"),
                    format!("grant read on {LOOKUP}: the agent needs it to know when the token expires"),
                ));
            }
            Looked::Unknown(_) => {
                return Err(KeyServiceError::new(
                    ErrorKind::CredentialsRefused,
                    "the token in the token file is not valid here: it is expired, revoked, used up, of another server, or bound to another network (token_bound_cidrs)",
                    self.method.remedy(),
                ));
            }
        };
        Ok(Token {
            secret: Some(secret),
            generation: 0,
            born: granted,
            lease: Lease::new(granted, lease(lookup.ttl), lookup.renewable),
            num_uses: lookup.num_uses,
        })
    }
}
