//! The identity of the agent, where the SPIFFE Workload API gives it. The API knows a process by its user and its unit: the
//! answer to this check may differ from that to the service.

use std::time::Duration;

use super::credentials::Readable;
use super::finding::{Check, Finding};
use super::report::Report;
use crate::clock::Deadline;
use crate::config::vault::{Method, Vault};
use crate::spiffe::{SpiffeError, WorkloadApi};

/// Asks for the identity that a login would use. Returns whether there is one.
pub(super) async fn check(vault: &Vault, time: Duration, report: &mut Report<'_>) -> Readable {
    let deadline = Deadline::after(time);
    let (socket, seen) = match (&vault.auth.method, &vault.tls.spiffe) {
        (Method::JwtSvid { spiffe, audience, .. }, _) => {
            let api = WorkloadApi::new(&spiffe.socket, spiffe.id.as_deref());
            let svid = api.jwt_svid(audience, deadline).await;
            (&spiffe.socket, svid.map(|_| format!("gives a JWT-SVID for {audience}")))
        }
        (_, Some(spiffe)) => {
            let api = WorkloadApi::new(&spiffe.socket, spiffe.id.as_deref());
            let svid = api.x509_svid(deadline).await;
            (&spiffe.socket, svid.map(|svid| format!("gives an X.509-SVID of {}", svid.id)))
        }
        _ => return Readable::Yes,
    };
    let subject = socket.display().to_string();
    match seen {
        Ok(seen) => {
            report.add(Finding::ok(Check::Credentials, subject, seen));
            Readable::Yes
        }
        Err(error) if error.is_unknown_caller => {
            let because = format!(
                "{error}. The service is another user: start it, and see kms-plugin status; or run this check as its user"
            );
            report.add(Finding::skipped(Check::Credentials, subject, because));
            Readable::Hidden
        }
        Err(error) => {
            report.add(failed(subject, error));
            Readable::No
        }
    }
}

fn failed(subject: String, error: SpiffeError) -> Finding {
    let why = "without an identity the agent cannot log in";
    Finding::fail(Check::Credentials, subject, error.to_string(), why, error.remedy)
}
