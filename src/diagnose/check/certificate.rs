//! TLS: whether the handshake succeeds, why not, and how long the certificates will last.

use std::path::Path;
use std::time::Duration;

use super::finding::{Check, Finding};
use super::report::Report;
use crate::clock::unix_seconds;
use crate::config::vault::Vault;
use crate::display::ago;
use crate::display::date;
use crate::vault::{CertificateFacts, Handshake, Target, TlsError};

/// A certificate that ends within this time should be renewed now, in seconds.
const SOON: i64 = 30 * 86_400;
const WHY: &str = "the agent trusts no server that it cannot verify: it would hand its token and the DEK seeds to whoever is there";

/// Tells what the handshake showed; whether it was completed.
pub(crate) fn judge(
    vault: &Vault,
    target: &Target,
    shaken: Result<Handshake, TlsError>,
    report: &mut Report,
) -> bool {
    let fail = |seen: String, remedy: String| Finding::fail(Check::Tls, &target.name, seen, WHY, remedy);
    let shaken = match shaken {
        Ok(shaken) => shaken,
        Err(error) => {
            let remedy = "check vault.ca_file, vault.client_cert_file and vault.client_key_file";
            report.add(fail(error.to_string(), remedy.to_owned()));
            return false;
        }
    };
    if let Err(cause) = &shaken.outcome {
        let (seen, remedy) = refused(vault, target, &shaken.chain, cause);
        report.add(fail(seen, remedy));
        return false;
    }
    let own = shaken.chain.first();
    let issuers = issuers(vault, &shaken.chain);
    // What ended already was not needed: the handshake succeeded.
    let lives = |certificate: &&CertificateFacts| certificate.not_after > unix_seconds();
    let ending = shaken.chain.iter().filter(lives).chain(&issuers).find_map(ending);
    report.add(match (ending, own) {
        (Some((whose, left)), _) => Finding::warn(
            Check::Tls,
            &target.name,
            format!("the certificate of {whose} ends in {left}"),
            "after that the agent cannot reach this address any more",
            "renew it: a server's is taken up by itself, an authority's goes into vault.ca_file before the servers change over",
        ),
        (None, Some(own)) => {
            let left = Duration::from_secs(u64::try_from(own.not_after - unix_seconds()).unwrap_or_default());
            let verified = if vault.tls.skip_verify { "NOT verified" } else { "verified" };
            Finding::ok(Check::Tls, &target.name, format!("{verified}, valid for {}", ago(left)))
        }
        (None, None) => Finding::ok(Check::Tls, &target.name, "a handshake without a certificate"),
    });
    true
}

/// The authorities of our own file that signed something in this chain; of several with one name, as while an
/// authority is being replaced, the one that lives longest.
fn issuers(vault: &Vault, chain: &[CertificateFacts]) -> Vec<CertificateFacts> {
    let file = vault.tls.ca_file.as_deref();
    let mut known = file.and_then(|path| CertificateFacts::of_file(path).ok()).unwrap_or_default();
    known.sort_by(|a, b| (&a.subject, b.not_after).cmp(&(&b.subject, a.not_after)));
    known.dedup_by(|later, earlier| later.subject == earlier.subject);
    known.into_iter().filter(|ca| chain.iter().any(|certificate| certificate.issuer == ca.subject)).collect()
}

/// Our own certificate, when it ended or will soon.
pub(crate) fn of_client(shown: &str, path: &Path) -> Option<Finding> {
    let own = CertificateFacts::of_file(path).ok()?.into_iter().next()?;
    let (whose, left) = ending(&own)?;
    let remedy = format!("have a new one signed and write it to {shown}; it is taken up without a restart");
    Some(if own.not_after <= unix_seconds() {
        let why = "the server refuses it, and with it every call or login";
        Finding::fail(Check::Credentials, shown, format!("the certificate of {whose} ended"), why, remedy)
    } else {
        let (seen, why) =
            (format!("the certificate of {whose} ends in {left}"), "after that the server refuses it");
        Finding::warn(Check::Credentials, shown, seen, why, remedy)
    })
}

fn ending(certificate: &CertificateFacts) -> Option<(&str, String)> {
    let left = certificate.not_after - unix_seconds();
    (left < SOON).then(|| {
        let left = Duration::from_secs(u64::try_from(left).unwrap_or_default());
        (certificate.subject.as_str(), ago(left))
    })
}

/// Why a handshake failed, with what the server presented.
fn refused(vault: &Vault, target: &Target, chain: &[CertificateFacts], cause: &str) -> (String, String) {
    let now = unix_seconds();
    let wanted = target.tls_name.as_deref().unwrap_or_default();

    let Some(own) = chain.first() else {
        let (seen, remedy) = match cause.contains("InvalidContentType") || cause.contains("corrupt message") {
            true => (
                "the server does not speak TLS on this port".to_owned(),
                "correct the port in vault.addresses; plain http:// is for loopback alone".to_owned(),
            ),
            false => (
                format!("no handshake: {cause}"),
                format!(
                    "correct the port in vault.addresses; openssl s_client -connect {}:{} shows the same with more words",
                    target.host, target.port
                ),
            ),
        };
        return (seen, remedy);
    };
    if cause.contains("not valid for name") {
        return (
            format!("the certificate is not for {wanted}, but for {}", own.names.join(", ")),
            format!(
                "set vault.server_name to one of those names, use it in vault.addresses, or add {wanted} to the server's certificate"
            ),
        );
    }
    if cause.contains("UnknownIssuer") || cause.contains("BadSignature") {
        let trusted = vault
            .tls
            .ca_file
            .as_ref()
            .map_or("the system's roots".to_owned(), |path| path.display().to_string());
        let issuer = chain.last().map_or("", |last| last.issuer.as_str());
        return (
            format!("the certificate is signed by {issuer}, which is not in {trusted}"),
            "put the authority that signs the servers' certificates into a file and name it with vault.ca_file".to_owned(),
        );
    }
    if let Some(ended) = chain.iter().find(|certificate| certificate.not_after < now) {
        return (
            format!(
                "the certificate of {} ended at {}; this node's clock says {}",
                ended.subject,
                date(ended.not_after),
                date(now)
            ),
            "renew the server's certificate; if this node's clock is wrong, set it: timedatectl".to_owned(),
        );
    }
    if let Some(early) = chain.iter().find(|certificate| certificate.not_before > now) {
        return (
            format!(
                "the certificate of {} is valid from {} only; this node's clock says {}",
                early.subject,
                date(early.not_before),
                date(now)
            ),
            "this node's clock is probably behind: timedatectl, chronyc tracking".to_owned(),
        );
    }
    (
        format!("no handshake: {cause}"),
        format!(
            "openssl s_client -connect {}:{} -CAfile FILE shows the same handshake with more words",
            target.host, target.port
        ),
    )
}
