//! Signed JWTs (ES256) of an issuer of the test's own.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

/// A signing key.
pub struct Signer(EcdsaKeyPair);

impl Signer {
    pub fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    /// The public key in PEM.
    pub fn public_pem(&self) -> String {
        let der: PublicKeyX509Der<'_> = self.0.public_key().as_der().unwrap();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der.as_ref()))
    }

    /// A token of `subject` for `audience`, valid for an hour, with what Kubernetes puts into one.
    pub fn sign(&self, subject: &str, audience: &str) -> String {
        self.sign_for(subject, audience, 3600)
    }

    /// The same, valid for so many seconds from now.
    pub fn sign_for(&self, subject: &str, audience: &str, seconds: i64) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let now = i64::try_from(now).unwrap();
        let header = json!({ "alg": "ES256", "typ": "JWT" });
        let claims = json!({
            "sub": subject, "aud": [audience], "iat": now, "nbf": now - 5, "exp": now + seconds, "iss": "test",
            "kubernetes.io": {
                "namespace": "kube-system", "serviceaccount": { "name": "kms-plugin", "uid": "1" },
            },
        });
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}
