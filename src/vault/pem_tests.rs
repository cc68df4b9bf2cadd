//! A corpus of bad files: each is refused with its place, its cause, and what to do. The good ones beside them are read.

use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequest, IsCa, KeyPair};

use super::TlsFile::{Certificates, ClientKey};
use super::*;

/// One authority with its key.
struct Material {
    certificate: String,
    key: String,
    der: Vec<u8>,
    key_der: Vec<u8>,
    request: String,
}

fn material() -> Material {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["vault.example".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let request: CertificateSigningRequest =
        CertificateParams::new(vec!["vault.example".to_owned()]).unwrap().serialize_request(&key).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Material {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        der: certificate.der().to_vec(),
        key_der: key.serialize_der(),
        request: request.pem().unwrap(),
    }
}

fn utf16(text: &str, mark: bool) -> Vec<u8> {
    let mark = if mark { "\u{feff}" } else { "" };
    format!("{mark}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn block(label: &str, content: &[u8]) -> String {
    let text = STANDARD.encode(content);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn store(kind: u8) -> Vec<u8> {
    let mut bytes = vec![0x30, 0x82, 0x01, 0x00, 0x02, 0x01, 0x03, 0x30, 0x81, 0xf0];
    bytes.extend([0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, kind]);
    bytes.resize(260, 0);
    bytes
}

#[test]
fn each_bad_file_is_named_with_its_cause_and_its_remedy() {
    let Material { certificate, key, der, key_der, request } = material();
    let text = |text: String| text.into_bytes();
    let without_last_line = |text: &str| text.trim_end().rsplit_once('\n').unwrap().0.to_owned();
    let body = |text: &str| {
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("--")).collect();
        lines.join("\n")
    };
    let half = |text: &str| {
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.len() - 1;
        let kept: Vec<&str> = lines.iter().copied().take(3).chain([lines[last]]).collect();
        kept.join("\n") + "\n"
    };
    let indented: String = certificate.lines().map(|line| format!("  {line}\n")).collect();
    let one_line = certificate.trim_end().replace('\n', "\\n");
    let openssl_encrypted = key
        .replace(
            "BEGIN PRIVATE KEY-----\n",
            "BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n",
        )
        .replace("END PRIVATE", "END RSA PRIVATE");
    let swapped_end = certificate.replace("END CERTIFICATE", "END PRIVATE KEY");
    let corrupt = certificate.replacen('M', "*", 1);
    let cases: Vec<(&str, TlsFile, Vec<u8>, &str, &str)> = vec![
        // Certificates.
        ("empty", Certificates, vec![], "is empty", "write"),
        ("blank lines", Certificates, b"\n \n".to_vec(), "is empty", "write"),
        (
            "words",
            Certificates,
            b"not a certificate\n".to_vec(),
            "holds no PEM certificate",
            "name another file",
        ),
        (
            "a page",
            Certificates,
            b"<html><body>404</body></html>".to_vec(),
            "a page or a message",
            "download it again",
        ),
        (
            "an answer of Vault",
            Certificates,
            b"{\"errors\":[\"permission denied\"]}".to_vec(),
            "a page or a message",
            "download",
        ),
        ("DER", Certificates, der.clone(), "is in DER, not PEM", "openssl x509 -inform DER"),
        ("PKCS #12", Certificates, store(1), "PKCS #12", "openssl pkcs12"),
        ("PKCS #7 in DER", Certificates, store(2), "PKCS #7 in DER", "openssl pkcs7 -inform DER"),
        ("PKCS #7", Certificates, text(block("PKCS7", &store(2))), "PKCS #7", "openssl pkcs7"),
        (
            "a byte order mark",
            Certificates,
            text(format!("\u{feff}{certificate}")),
            "byte order mark",
            "sed -i",
        ),
        (
            "a mark between two",
            Certificates,
            text(format!("{certificate}\u{feff}{certificate}")),
            "byte order mark in line",
            "sed -i",
        ),
        ("UTF-16", Certificates, utf16(&certificate, true), "is UTF-16", "iconv -f UTF-16LE"),
        ("UTF-16 without a mark", Certificates, utf16(&certificate, false), "is UTF-16", "iconv -f UTF-16LE"),
        ("Latin-1", Certificates, b"# Beh\xf6rde\n".to_vec(), "is not UTF-8", "write"),
        (
            "cut before the end",
            Certificates,
            text(without_last_line(&certificate)),
            "is cut: the block that begins in line 1",
            "copy the whole file",
        ),
        (
            "cut in the second",
            Certificates,
            text(format!("{certificate}{}", without_last_line(&certificate))),
            "is cut",
            "copy the whole file",
        ),
        ("cut in the middle", Certificates, text(half(&certificate)), "begins in line 1", "copy"),
        (
            "the beginning is missing",
            Certificates,
            text(certificate.split_once('\n').unwrap().1.to_owned()),
            "does not begin",
            "copy",
        ),
        (
            "the end of the first is missing",
            Certificates,
            text(format!("{}\n{certificate}", without_last_line(&certificate))),
            "is cut",
            "copy",
        ),
        (
            "glued",
            Certificates,
            text(format!("{}{certificate}", certificate.trim_end())),
            "joined without a line break",
            "sed -i",
        ),
        (
            "glued to a comment",
            Certificates,
            text(format!("# authority {certificate}")),
            "more than BEGIN or END in line 1",
            "sed -i",
        ),
        ("another end", Certificates, text(swapped_end), "ends another kind of block", "copy"),
        ("not base64", Certificates, text(corrupt), "a block is not base64", "copy the whole file"),
        (
            "no certificate inside",
            Certificates,
            text(block("CERTIFICATE", &[7; 100])),
            "begins in line 1 is no certificate",
            "copy the certificate again",
        ),
        (
            "the second is no certificate",
            Certificates,
            text(format!("{certificate}{}", block("CERTIFICATE", &[7; 100]))),
            "is no certificate",
            "copy",
        ),
        (
            "a certificate and more",
            Certificates,
            text(block("CERTIFICATE", &[&der[..], &[1, 2]].concat())),
            "is no certificate",
            "copy",
        ),
        ("indented", Certificates, text(indented), "has spaces before line 1", "sed -i"),
        ("one line with \\n", Certificates, text(one_line), "has \\n in place of line breaks", "printf '%b"),
        (
            "only base64",
            Certificates,
            text(body(&certificate)),
            "base64 without the lines of a PEM file",
            "-----BEGIN CERTIFICATE-----",
        ),
        ("a key", Certificates, text(key.clone()), "but a private key at line 1", "swapped"),
        (
            "an encrypted key",
            Certificates,
            text(block("ENCRYPTED PRIVATE KEY", &[7; 100])),
            "but a private key at line 1",
            "swapped",
        ),
        ("a request", Certificates, text(request), "a request for a certificate", "from the request"),
        (
            "a form of OpenSSL",
            Certificates,
            text(block("TRUSTED CERTIFICATE", &der)),
            "OpenSSL's own",
            "openssl x509",
        ),
        (
            "a list of revoked ones",
            Certificates,
            text(block("X509 CRL", &[7; 100])),
            "revoked",
            "name another file",
        ),
        (
            "a public key",
            Certificates,
            text(block("PUBLIC KEY", &[7; 100])),
            "public key",
            "name another file",
        ),
        // Keys.
        ("empty", ClientKey, vec![], "is empty", "write"),
        ("words", ClientKey, b"not a key\n".to_vec(), "holds no PEM private key", "name another file"),
        ("DER", ClientKey, key_der.clone(), "is in DER, not PEM", "openssl pkey -inform DER"),
        ("PKCS #12", ClientKey, store(1), "PKCS #12", "openssl pkcs12"),
        ("a byte order mark", ClientKey, text(format!("\u{feff}{key}")), "byte order mark", "sed -i"),
        ("UTF-16", ClientKey, utf16(&key, true), "is UTF-16", "iconv"),
        ("cut before the end", ClientKey, text(without_last_line(&key)), "is cut", "copy the whole file"),
        (
            "cut in the middle",
            ClientKey,
            text(block("PRIVATE KEY", &key_der[..40])),
            "damaged",
            "openssl pkey",
        ),
        (
            "glued behind the certificate",
            ClientKey,
            text(format!("{}{key}", certificate.trim_end())),
            "joined without a line break",
            "sed -i",
        ),
        (
            "encrypted",
            ClientKey,
            text(block("ENCRYPTED PRIVATE KEY", &[7; 100])),
            "encrypted private key at line 1",
            "openssl pkey",
        ),
        (
            "encrypted by an old OpenSSL",
            ClientKey,
            text(openssl_encrypted),
            "encrypted private key at line 1",
            "openssl pkey",
        ),
        ("a certificate", ClientKey, text(certificate.clone()), "but a certificate at line 1", "swapped"),
        ("a public key", ClientKey, text(block("PUBLIC KEY", &[7; 100])), "public key", "name another file"),
        (
            "of OpenSSH",
            ClientKey,
            text(block("OPENSSH PRIVATE KEY", &[7; 100])),
            "of OpenSSH",
            "ssh-keygen -p",
        ),
        (
            "parameters only",
            ClientKey,
            text(block("EC PARAMETERS", &[6, 8, 42])),
            "parameters",
            "name another file",
        ),
        ("DSA", ClientKey, text(block("DSA PRIVATE KEY", &[7; 100])), "private key", "name another file"),
        (
            "indented",
            ClientKey,
            text(key.lines().map(|line| format!("\t{line}\n")).collect()),
            "has spaces before line 1",
            "sed -i",
        ),
        (
            "only base64",
            ClientKey,
            text(body(&key)),
            "base64 without the lines of a PEM file",
            "-----BEGIN PRIVATE KEY-----",
        ),
        (
            "a label of a stranger",
            ClientKey,
            text("-----BEGIN \u{1b}[2Jx-----\n-----END \u{1b}[2Jx-----\n".to_owned()),
            "but a [2Jx at line 1",
            "name another file",
        ),
    ];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file.pem");
    let shown = path.display().to_string();
    for (name, kind, content, what, remedy) in &cases {
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let error = check_file(&path, *kind).expect_err(name);
        assert!(error.message().contains(&shown), "{name}: {error}");
        assert!(error.message().contains(what), "{name}: {what:?} in {error}");
        assert!(error.remedy().unwrap().contains(remedy), "{name}: {remedy:?} in {error}");
        let said = error.to_string();
        assert!(said.len() < 500 && !said.chars().any(char::is_control), "{name}: {said:?}");
        let secret = key.lines().nth(1).unwrap();
        assert!(!said.contains(secret) && !said.contains(&secret[..16]), "{name}: {said}");
    }
    assert!(cases.len() >= 50);
}

#[test]
fn good_files_are_read_with_everything_that_may_stand_beside() {
    let Material { certificate, key, .. } = material();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file.pem");
    let read = |text: &str, kind| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        check_file(&path, kind).unwrap();
        certificates(&path).map_or(0, |found| found.len())
    };
    assert_eq!(read(&certificate, Certificates), 1);
    assert_eq!(read(&format!("subject=CN = x\n{certificate}\n\n# another\n{certificate}"), Certificates), 2);
    assert_eq!(read(&certificate.replace('\n', "\r\n"), Certificates), 1);
    assert_eq!(read(certificate.trim_end(), Certificates), 1);
    assert_eq!(read(&format!("{key}{certificate}"), Certificates), 1);
    read(&format!("{certificate}{key}"), ClientKey);
    read(
        &format!("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{key}"),
        ClientKey,
    );
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    std::fs::write(&path, material().key).unwrap();
    for (mode, is_good) in [(0o600, true), (0o640, true), (0o644, false), (0o602, false), (0o601, false)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        match check_file(&path, ClientKey) {
            Ok(()) => assert!(is_good, "{mode:o}"),
            Err(error) => {
                let said = error.to_string();
                assert!(
                    !is_good && said.contains(&format!("{mode:04o}")) && said.contains("chmod 0640"),
                    "{said}"
                );
            }
        }
    }
}
