//! `render unit-dropin`: the secrets of the configuration as systemd credentials.

use super::credentials::{Credential, by_credential};
use crate::cli::exit::{Exit, Failure};
use crate::cli::flags::ConfigFlags;

/// Drop-in for kms-plugin.service that passes the secrets as systemd credentials
#[derive(Debug, clap::Args)]
#[command(after_help = "Put it into /etc/systemd/system/kms-plugin.service.d/50-credentials.conf, and \
                        `credential = \"NAME\"` in place of the secret's file into the configuration. For \
                        --encrypted: systemd-creds encrypt --name=NAME FILE FILE.cred")]
pub(crate) struct UnitDropinArgs {
    /// Expect FILE.cred, encrypted by systemd-creds with the host's key or its TPM
    #[arg(long)]
    encrypted: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

pub(crate) fn render(args: &UnitDropinArgs) -> Result<String, Failure> {
    let (merged, _) = super::configuration(&args.flags)?;
    let mut config = merged.extract().map_err(|error| Failure::new(Exit::Config, error))?;
    let credentials = by_credential(&mut config);
    if credentials.is_empty() {
        return Err(Failure::message(
            Exit::Config,
            "this configuration names no secret file and no credential",
        ));
    }
    Ok(drop_in(&credentials, args.encrypted))
}

/// The lines of the drop-in.
pub(crate) fn drop_in(credentials: &[Credential], encrypted: bool) -> String {
    let mut text = String::from(
        "# Secrets of kms-plugin, handed over by systemd at each start (systemd.exec(5)): after a change,\n\
         # systemctl restart kms-plugin, which refuses no connection.\n[Service]\n",
    );
    let (key, suffix) = if encrypted { ("LoadCredentialEncrypted", ".cred") } else { ("LoadCredential", "") };
    for credential in credentials {
        let file = credential.file.clone();
        let file = file.unwrap_or_else(|| format!("/etc/kms-plugin/{}", credential.name));
        text.push_str(&format!("{key}={}:{file}{suffix}\n", credential.name));
    }
    text
}
