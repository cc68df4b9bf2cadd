//! The flags and variables of another plugin that were given, and how they log in.

use super::flag_table::{Meaning, Of};

/// A flag or variable of another plugin that was given.
pub(super) struct Given {
    /// As written, for messages: `-token`, `VAULT_KMS_TOKEN`.
    pub spelling: String,
    pub meaning: Meaning,
    pub value: String,
}

/// How the given flags log in.
#[derive(Clone, Copy)]
pub(super) struct Login<'a> {
    /// The method that is named, or that of the given credentials.
    pub method: Option<&'a str>,
    /// Whether a JWT comes from the SPIFFE Workload API. The other plugins ignore what is for the other source.
    pub svid: bool,
}

impl<'a> Login<'a> {
    pub(super) fn of(given: &'a [Given]) -> Self {
        let last =
            |wanted| given.iter().rev().find(|one| one.meaning == wanted).map(|one| one.value.as_str());
        let implied = |one: &Given| match one.meaning {
            Meaning::Key(_, Of::AppRole) | Meaning::Secret("vault.auth.secret_id_file") => Some("approle"),
            Meaning::Key(_, Of::Userpass) | Meaning::Secret("vault.auth.password_file") => Some("userpass"),
            Meaning::Secret(_) => Some("token"),
            Meaning::Key(_, Of::Cert) | Meaning::CertAndKey => Some("cert"),
            Meaning::Key(_, Of::Jwt | Of::JwtFile) => Some("jwt"),
            Meaning::TokenSource if one.value == "spiffe" => Some("jwt"),
            _ => None,
        };
        Self {
            method: last(Meaning::Key("vault.auth.method", Of::Any))
                .or_else(|| given.iter().find_map(implied)),
            svid: last(Meaning::TokenSource) == Some("spiffe"),
        }
    }

    pub(super) fn by_jwt(self) -> bool {
        matches!(self.method, Some("jwt" | "kubernetes"))
    }

    /// Whether a flag of `of` has a meaning for this login.
    pub(super) fn is_of(self, of: Of) -> bool {
        match of {
            Of::Any => true,
            Of::AppRole => self.method == Some("approle"),
            Of::Userpass => self.method == Some("userpass"),
            Of::Cert => self.method == Some("cert"),
            Of::Jwt => self.by_jwt(),
            Of::JwtFile => self.by_jwt() && !self.svid,
            Of::JwtSvid => self.method == Some("jwt") && self.svid,
        }
    }
}
