//! TLS: whether the handshake succeeds, why it fails, and when the certificates expire.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::finding::{Check, Finding};
use super::report::Report;
use crate::clock::unix_seconds;
use crate::config::vault::Vault;
use crate::display::ago;
use crate::display::date;
use crate::vault::{CertificateFacts, Handshake, Target, TlsError, TlsFault};

/// A certificate that expires within this number of seconds should be renewed now.
const SOON: i64 = 30 * 86_400;
const WHY: &str = "the agent does not connect to a server that it cannot verify: an attacker would get its token and the DEK seeds";

/// Reports the result of a handshake. Returns whether it succeeded.
pub(crate) fn check(
    vault: &Vault,
    target: &Target,
    handshake: Result<Handshake, TlsError>,
    report: &mut Report<'_>,
) -> bool {
    let fail = |seen: String, remedy: String| Finding::fail(Check::Tls, &target.name, seen, WHY, remedy);
    let handshake = match handshake {
        Ok(handshake) => handshake,
        Err(error) => {
            let general = "check vault.ca_file, vault.client_cert_file and vault.client_key_file";
            report.add(fail(error.message().to_owned(), error.remedy().unwrap_or(general).to_owned()));
            return false;
        }
    };
    if let Err(error) = &handshake.outcome {
        let (seen, remedy) = failed(vault, target, &handshake.chain, error);
        report.add(fail(seen, remedy));
        return false;
    }
    let own = handshake.chain.first();
    let issuers = issuers(vault, &handshake.chain);
    // An expired certificate was not needed: the handshake succeeded.
    let is_valid = |certificate: &&CertificateFacts| certificate.not_after > unix_seconds();
    let expiring = handshake.chain.iter().filter(is_valid).chain(&issuers).find_map(expires_soon);
    report.add(match (expiring, own) {
        (Some((whose, left)), _) => Finding::warn(
            Check::Tls,
            &target.name,
            format!("the certificate of {whose} expires in {left}"),
            "after that the agent cannot use this address",
            "renew it. The agent accepts a new server certificate by itself. Add a new CA to vault.ca_file before the servers use it",
        ),
        (None, Some(own)) => {
            let left = Duration::from_secs(u64::try_from(own.not_after.saturating_sub(unix_seconds())).unwrap_or_default());
            let verified = if vault.tls.skip_verify { "NOT verified" } else { "verified" };
            Finding::ok(Check::Tls, &target.name, format!("{verified}, valid for {}", ago(left)))
        }
        (None, None) => Finding::ok(Check::Tls, &target.name, "the handshake succeeded without a certificate"),
    });
    true
}

/// The CA certificates of `vault.ca_file` that signed something in this chain. While a CA is being replaced, the file
/// may have two with the same name: then only the one that expires last.
fn issuers(vault: &Vault, chain: &[CertificateFacts]) -> Vec<CertificateFacts> {
    let file = vault.tls.ca_file.as_deref();
    let mut known = file.and_then(|path| CertificateFacts::of_file(path).ok()).unwrap_or_default();
    known.sort_by(|a, b| (&a.subject, b.not_after).cmp(&(&b.subject, a.not_after)));
    known.dedup_by(|later, earlier| later.subject == earlier.subject);
    known.into_iter().filter(|ca| chain.iter().any(|certificate| certificate.issuer == ca.subject)).collect()
}

/// A finding when our own certificate has expired or expires soon.
pub(crate) fn expiry_of_client(shown: &str, path: &Path) -> Option<Finding> {
    let own = CertificateFacts::of_file(path).ok()?.into_iter().next()?;
    let (whose, left) = expires_soon(&own)?;
    let remedy =
        format!("have a new one signed and write it to {shown}; the agent loads it without a restart");
    Some(if own.not_after <= unix_seconds() {
        let why = "the server refuses it, and so every call or login fails";
        Finding::fail(
            Check::Credentials,
            shown,
            format!("the certificate of {whose} has expired"),
            why,
            remedy,
        )
    } else {
        let (seen, why) =
            (format!("the certificate of {whose} expires in {left}"), "after that the server refuses it");
        Finding::warn(Check::Credentials, shown, seen, why, remedy)
    })
}

/// The subject and the time left.
fn expires_soon(certificate: &CertificateFacts) -> Option<(&str, String)> {
    let left = certificate.not_after.saturating_sub(unix_seconds());
    (left < SOON).then(|| {
        let left = Duration::from_secs(u64::try_from(left).unwrap_or_default());
        (certificate.subject.as_str(), ago(left))
    })
}

/// Why a handshake failed, by the chain that the server presented; and the remedy.
fn failed(vault: &Vault, target: &Target, chain: &[CertificateFacts], error: &io::Error) -> (String, String) {
    let now = unix_seconds();
    let wanted = target.tls_name.as_deref().unwrap_or_default();
    let fault = TlsFault::in_chain(error);
    let Some(own) = chain.first() else {
        return match fault {
            Some(fault) => (format!("the server {}", fault.what()), fault.remedy().to_owned()),
            None => (
                format!("the handshake failed: {error}"),
                format!(
                    "correct the port in vault.addresses; openssl s_client -connect {}:{} shows more of the same handshake",
                    target.host, target.port
                ),
            ),
        };
    };
    if matches!(fault, Some(TlsFault::WrongName { has_none: false })) {
        return (
            format!("the certificate is not for {wanted} but for {}", own.names.join(", ")),
            format!(
                "set vault.server_name to one of those names, use it in vault.addresses, or add {wanted} to the server's certificate"
            ),
        );
    }
    if fault == Some(TlsFault::UnknownAuthority) {
        let trusted = vault
            .tls
            .ca_file
            .as_ref()
            .map_or("the CA certificates of the system".to_owned(), |path| path.display().to_string());
        let issuer = chain.last().map_or("", |last| last.issuer.as_str());
        return (
            format!("the certificate is signed by {issuer}, which is not in {trusted}"),
            "write the certificate of the CA that signs the servers' certificates into a file, and name the file with vault.ca_file".to_owned(),
        );
    }
    // An expired certificate that was not needed is no cause.
    let is_about_time = matches!(fault, None | Some(TlsFault::Expired(_) | TlsFault::NotYetValid(_)));
    if let Some(expired) = chain.iter().find(|certificate| is_about_time && certificate.not_after < now) {
        return (
            format!(
                "the certificate of {} expired at {}; this node's clock shows {}",
                expired.subject,
                date(expired.not_after),
                date(now)
            ),
            "renew the server's certificate; if this node's clock is wrong, set it: timedatectl".to_owned(),
        );
    }
    if let Some(early) = chain.iter().find(|certificate| is_about_time && certificate.not_before > now) {
        return (
            format!(
                "the certificate of {} is valid from {}; this node's clock shows {}",
                early.subject,
                date(early.not_before),
                date(now)
            ),
            "this node's clock is probably slow: timedatectl, chronyc tracking".to_owned(),
        );
    }
    if let Some(fault) = fault {
        return (format!("the server {}", fault.what()), fault.remedy().to_owned());
    }
    (
        format!("the handshake failed: {error}"),
        format!(
            "openssl s_client -connect {}:{} -CAfile FILE shows more of the same handshake",
            target.host, target.port
        ),
    )
}
