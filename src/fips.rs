//! The FIPS 140-3 build (`--features fips`): whether the cryptography of this process comes from the FIPS module of
//! AWS-LC, and what FIPS 140-3 approves.
//!
//! Every use of cryptography goes through `aws-lc-rs` and, for TLS, through rustls on it. The feature replaces the
//! library below both. docs/security.md has the module's version and certificate.

use std::sync::OnceLock;

use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;

/// Whether this is the FIPS build.
pub(crate) const BUILD: bool = cfg!(feature = "fips");

/// The types of Transit keys that FIPS 140-3 approves. ChaCha20 is not approved.
const APPROVED_KEY_TYPES: [&str; 2] = ["aes256-gcm96", "aes128-gcm96"];

/// The version of the program, and in the FIPS build the module.
pub(crate) fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| match module() {
        Some(module) => format!("{} (FIPS 140-3, {module})", env!("CARGO_PKG_VERSION")),
        None => env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// The FIPS module in use; `None` when this is not the FIPS build.
pub(crate) fn module() -> Option<String> {
    BUILD.then(|| format!("AWS-LC FIPS {}", aws_lc_rs::awslc_version()))
}

/// Whether a build (`fips`: the FIPS build) may wrap with a Transit key of this type. A type that is not known yet is
/// not refused: nothing is wrapped before the key was read.
pub(crate) fn approves(key_type: &str, fips: bool) -> bool {
    !fips || key_type.is_empty() || APPROVED_KEY_TYPES.contains(&key_type)
}

/// The FIPS build does not run in FIPS mode.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FipsError {
    #[error(
        "the FIPS module of AWS-LC is not in FIPS mode: {0}; this build does not run without it: install it again"
    )]
    Mode(&'static str),
    #[error("the TLS configuration allows what FIPS 140-3 does not approve; this is a fault of the build")]
    Tls,
}

/// In the FIPS build: makes sure that the module has passed its self-tests, and that TLS uses only what is approved.
pub(crate) fn verify() -> Result<(), FipsError> {
    if !BUILD {
        return Ok(());
    }
    aws_lc_rs::try_fips_mode().map_err(FipsError::Mode)?;
    // Some crates, such as the client of Kubernetes, use the provider of the process. The first call sets it.
    let _was_set = default_provider().install_default();
    if CryptoProvider::get_default().is_some_and(|provider| provider.fips()) {
        Ok(())
    } else {
        Err(FipsError::Tls)
    }
}

/// In the FIPS build: refuses a TLS configuration that allows what is not approved.
pub(crate) fn verify_tls(config: &ClientConfig) -> Result<(), FipsError> {
    if BUILD && !config.fips() { Err(FipsError::Tls) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fips_build_refuses_key_types() {
        for key_type in ["aes256-gcm96", "aes128-gcm96", "chacha20-poly1305", "xchacha20-poly1305", ""] {
            assert!(approves(key_type, false), "{key_type}");
        }
        assert!(approves("aes256-gcm96", true) && approves("aes128-gcm96", true) && approves("", true));
        assert!(!approves("chacha20-poly1305", true) && !approves("xchacha20-poly1305", true));
    }

    #[test]
    fn a_crate_that_names_no_provider_gets_ours() {
        verify().unwrap();
        let config = ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        assert_eq!(config.fips(), BUILD);
        verify_tls(&config).unwrap();
    }

    #[test]
    fn the_build_says_what_it_is() {
        verify().unwrap();
        assert_eq!(aws_lc_rs::try_fips_mode().is_ok(), BUILD, "the library below is the one of the feature");
        assert_eq!(module().is_some(), BUILD);
        assert_eq!(version().contains("FIPS 140-3, AWS-LC FIPS 3."), BUILD, "{}", version());
        let suites: Vec<String> = default_provider()
            .cipher_suites
            .iter()
            .map(|suite| format!("{:?}", suite.suite()))
            .filter(|name| name.contains("CHACHA20"))
            .collect();
        assert_eq!(suites.is_empty(), BUILD, "{suites:?}");
    }
}
