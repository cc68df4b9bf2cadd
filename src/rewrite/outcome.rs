//! What an answer to a write means: done, later, or not possible, with the way out.

use std::time::Duration;

use serde::Serialize;

use crate::cluster::{CallError, Refusal, Written};

/// How a write ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// Stored anew.
    Anew,
    /// It was under the current key already.
    Unchanged,
    /// Somebody wrote it meanwhile, and so under the current key.
    WrittenMeanwhile,
    /// Somebody deleted it.
    Deleted,
}

/// How a write did not end well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Setback {
    /// The API server has too much to do.
    Busy(Option<Duration>),
    /// The API server is not there.
    Away(String),
    /// It failed, and may work later.
    Failing(Problem),
    /// It is refused, and will be again.
    Refused(Problem),
}

/// Why an object cannot be rewritten. Objects with the same problem are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Problem {
    pub kind: ProblemKind,
    /// The name of the webhook or policy; may be empty.
    pub by: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProblemKind {
    /// An admission webhook or policy refuses the write.
    Admission,
    /// An admission webhook does not answer.
    WebhookAway,
    Quota,
    /// This user may not do that.
    Rights,
    /// The API server cannot decrypt the object.
    Unreadable,
    /// The object does not pass the API server's own rules.
    Invalid,
    /// The API server cannot encrypt: the plugin or its key service is away.
    NotEncrypted,
    Other,
}

impl Problem {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let by = if self.by.is_empty() { String::new() } else { format!(" {}", self.by) };
        match self.kind {
            ProblemKind::Admission => format!("refused by admission{by}"),
            ProblemKind::WebhookAway => format!("the admission webhook{by} does not answer"),
            ProblemKind::Quota => "refused by a quota".into(),
            ProblemKind::Rights => "this user may not list or patch".into(),
            ProblemKind::Unreadable => "the API server cannot decrypt".into(),
            ProblemKind::Invalid => "refused as invalid".into(),
            ProblemKind::NotEncrypted => "the API server cannot encrypt".into(),
            ProblemKind::Other => "failed".into(),
        }
    }

    /// What to do.
    pub(crate) fn remedy(&self) -> &'static str {
        match self.kind {
            ProblemKind::Admission => {
                "exempt updates that change nothing (in matchConditions of the webhook or the policy, the expression `object != oldObject`), or change the object so that it passes"
            }
            ProblemKind::WebhookAway => {
                "bring the webhook's service back, or set its failurePolicy to Ignore for the time of the rewrite"
            }
            ProblemKind::Quota => "raise the quota of that namespace",
            ProblemKind::Rights => "grant what `kms-plugin render rbac` prints",
            ProblemKind::Unreadable => {
                "`kms-plugin verify-etcd --list 20` names its key: bring that key back (decrypt_only, or the old provider), or delete the object"
            }
            ProblemKind::Invalid => "an old object breaks a newer rule: `kubectl edit` it, or delete it",
            ProblemKind::NotEncrypted => "`kms-plugin check` on the node of that API server says why",
            ProblemKind::Other => "the message says what the API server needs",
        }
    }
}

/// What the answer to a write means.
pub(super) fn of(answer: Result<Written, CallError>) -> Result<Done, (Setback, String)> {
    let error = match answer {
        Ok(Written::Anew) => return Ok(Done::Anew),
        Ok(Written::Unchanged) => return Ok(Done::Unchanged),
        Err(error) => error,
    };
    if let CallError::Refused(refusal) = &error
        && denied_by(&refusal.message).is_none()
    {
        match (refusal.code, refusal.reason.as_str()) {
            (409, "Conflict") => return Ok(Done::WrittenMeanwhile),
            (404, "NotFound") => return Ok(Done::Deleted),
            _ => {}
        }
    }
    let text = error.to_string();
    Err((setback(error), text))
}

/// What an error of any call means.
pub(super) fn setback(error: CallError) -> Setback {
    let refusal = match error {
        CallError::Refused(refusal) => refusal,
        CallError::TimedOut(_) | CallError::NotReached(_) => return Setback::Away(error.to_string()),
        CallError::TooLarge(_) | CallError::NotUnderstood(_) => {
            return Setback::Refused(Problem { kind: ProblemKind::Other, by: String::new() });
        }
    };
    match refusal.code {
        _ if denied_by(&refusal.message).is_some() => Setback::Refused(problem(&refusal)),
        429 => Setback::Busy(refusal.retry_after),
        // 401: a token that is being replaced.
        401 | 408 | 502..=504 => Setback::Away(CallError::Refused(refusal).to_string()),
        500.. => Setback::Failing(problem(&refusal)),
        _ => Setback::Refused(problem(&refusal)),
    }
}

/// What stands in the message between these words and the quote.
fn quoted(message: &str, after: &str, quote: char) -> Option<String> {
    let rest = message.split_once(after)?.1;
    Some(rest.split(quote).next()?.to_owned())
}

/// The webhook or the policy that has denied the request. The status code says nothing then: a webhook chooses any (400
/// when it does not), and a policy one of four.
fn denied_by(message: &str) -> Option<String> {
    const WEBHOOK: &str = "admission webhook \"";
    const POLICY: &str = "ValidatingAdmissionPolicy '";
    if message.starts_with(WEBHOOK) && message.contains(" denied the request") {
        return quoted(message, WEBHOOK, '"');
    }
    if message.contains(" denied request: ") { quoted(message, POLICY, '\'') } else { None }
}

/// Words of kube-apiserver 1.34 to 1.37.
fn problem(refusal: &Refusal) -> Problem {
    let message = refusal.message.as_str();
    let has = |words: &str| message.contains(words);
    let (kind, by) = if let Some(by) = denied_by(message) {
        (ProblemKind::Admission, Some(by))
    } else if has("failed calling webhook") {
        (ProblemKind::WebhookAway, quoted(message, "failed calling webhook \"", '"'))
    } else if has("exceeded quota") {
        (ProblemKind::Quota, None)
    } else if has("decrypt") || has("no matching prefix found") || has("unable to transform key") {
        (ProblemKind::Unreadable, None)
    } else if has("encrypt") {
        (ProblemKind::NotEncrypted, None)
    } else if refusal.code == 422 {
        (ProblemKind::Invalid, None)
    } else if refusal.code == 403 {
        (ProblemKind::Rights, None)
    } else {
        (ProblemKind::Other, None)
    };
    Problem { kind, by: by.unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, reason: &str, message: &str) -> Result<Done, Setback> {
        let refusal = Refusal { code, reason: reason.into(), message: message.into(), ..Refusal::default() };
        of(Err(CallError::Refused(refusal))).map_err(|(setback, _)| setback)
    }

    #[test]
    fn a_conflict_and_a_deleted_object_are_good() {
        assert_eq!(refused(409, "Conflict", "the object has been modified"), Ok(Done::WrittenMeanwhile));
        assert_eq!(refused(404, "NotFound", "secrets \"a\" not found"), Ok(Done::Deleted));
        // A path that is not served is no deleted object.
        assert!(matches!(refused(404, "", "404 page not found"), Err(Setback::Refused(_))));
        assert!(matches!(refused(409, "AlreadyExists", ""), Err(Setback::Refused(_))));
    }

    #[test]
    fn refusals_have_their_reason() {
        let problem = |kind, by: &str| Problem { kind, by: by.into() };
        for (code, message, expected) in [
            (
                403,
                "admission webhook \"no.example.com\" denied the request: not today",
                Setback::Refused(problem(ProblemKind::Admission, "no.example.com")),
            ),
            (
                500,
                "Internal error occurred: failed calling webhook \"a.b\": failed to call webhook: Post \"https://x\": dial tcp",
                Setback::Failing(problem(ProblemKind::WebhookAway, "a.b")),
            ),
            (
                422,
                "secrets \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: x",
                Setback::Refused(problem(ProblemKind::Admission, "p")),
            ),
            (
                403,
                "secrets \"a\" is forbidden: User \"u\" cannot patch",
                Setback::Refused(problem(ProblemKind::Rights, "")),
            ),
            (
                403,
                "secrets \"a\" is forbidden: exceeded quota: q",
                Setback::Refused(problem(ProblemKind::Quota, "")),
            ),
            (
                500,
                "Internal error occurred: failed to decrypt DEK, error: rpc error",
                Setback::Failing(problem(ProblemKind::Unreadable, "")),
            ),
            (
                422,
                "Secret \"a\" is invalid: data: Too long",
                Setback::Refused(problem(ProblemKind::Invalid, "")),
            ),
        ] {
            assert_eq!(refused(code, "", message), Err(expected), "{message}");
        }
        assert_eq!(refused(429, "TooManyRequests", ""), Err(Setback::Busy(None)));
        // Whatever status a webhook or a policy chooses, it is their refusal.
        let webhook = "admission webhook \"a.b\" denied the request: slow down";
        for (code, reason) in
            [(400, ""), (401, "Unauthorized"), (404, "NotFound"), (409, "Conflict"), (429, ""), (503, "")]
        {
            let expected = Setback::Refused(problem(ProblemKind::Admission, "a.b"));
            assert_eq!(refused(code, reason, webhook), Err(expected), "{code}");
        }
        let silent = "admission webhook \"a.b\" denied the request without explanation";
        assert_eq!(refused(429, "", silent), Err(Setback::Refused(problem(ProblemKind::Admission, "a.b"))));
        let policy =
            "secrets \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: x";
        let expected = Setback::Refused(problem(ProblemKind::Admission, "p"));
        assert_eq!(refused(401, "Unauthorized", policy), Err(expected));
        assert!(matches!(refused(503, "ServiceUnavailable", ""), Err(Setback::Away(_))));
    }
}
