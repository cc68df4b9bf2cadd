//! The blocks of a PEM file, and what is wrong with a file that has no usable ones: in words for an administrator, with
//! the command that converts it.
//!
//! Parsers of PEM ignore what they do not understand, so that half a file may count as a whole one. Must not know what
//! the blocks are used for.

use crate::files::WrongEncoding;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// As the end of a sentence about the file.
    pub what: String,
    pub remedy: String,
}

fn fault<T>(what: impl Into<String>, remedy: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { what: what.into(), remedy: remedy.into() })
}

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block<'a> {
    /// What follows BEGIN, such as `CERTIFICATE`.
    pub label: &'a str,
    /// The line of BEGIN; the first line is 1.
    pub line: usize,
    /// Whether its content is encrypted in the old way of OpenSSL.
    pub is_encrypted: bool,
}

/// What a file should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Certificates,
    PrivateKey,
}

impl Wanted {
    fn name(self) -> &'static str {
        match self {
            Self::Certificates => "PEM certificate (BEGIN CERTIFICATE)",
            Self::PrivateKey => "PEM private key (BEGIN PRIVATE KEY)",
        }
    }

    fn is(self, block: &Block<'_>) -> bool {
        match self {
            Self::Certificates => block.label == "CERTIFICATE",
            Self::PrivateKey => {
                matches!(block.label, "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY")
                    && !block.is_encrypted
            }
        }
    }
}

/// The wanted blocks of the file with this content: at least one, and every block is whole.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn wanted<'a>(content: &'a [u8], path: &str, wanted: Wanted) -> Result<Vec<Block<'a>>, Fault> {
    let text = text(content, path, wanted)?;
    let blocks = blocks(text, path)?;
    let found: Vec<Block<'_>> = blocks.iter().filter(|block| wanted.is(block)).cloned().collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let name = wanted.name();
    match blocks.first() {
        Some(other) => other_block(other, path, wanted),
        None if content.trim_ascii().is_empty() => fault("is empty", format!("write a {name} into it")),
        None if text.trim_start().starts_with(['<', '{']) => fault(
            format!("holds no {name}, but a page or a message"),
            "download it again, and look at what arrives",
        ),
        None if is_base64(text) => {
            let label = if wanted == Wanted::PrivateKey { "PRIVATE KEY" } else { "CERTIFICATE" };
            fault(
                format!("holds base64 without the lines of a PEM file around it, so no {name}"),
                format!(
                    "write {BEGIN}{label}{DASHES} before it and {END}{label}{DASHES} after it, each in a line of its own"
                ),
            )
        }
        None => fault(format!("holds no {name}"), format!("write a {name} into it, or name another file")),
    }
}

/// The content as text.
fn text<'a>(content: &'a [u8], path: &str, wanted: Wanted) -> Result<&'a str, Fault> {
    // A sequence of ASN.1 with a length of one or two bytes; text does not begin so.
    if let [0x30, 0x80..=0x83, ..] = content {
        return binary(content, path, wanted);
    }
    if let Some(encoding) = WrongEncoding::of(content) {
        let remedy = encoding.command(path).unwrap_or_else(|| format!("write a {} into it", wanted.name()));
        return fault(encoding.what(), remedy);
    }
    std::str::from_utf8(content)
        .or_else(|_| fault("is not text", format!("write a {} into it", wanted.name())))
}

/// A file in DER, or a store of PKCS #12 or PKCS #7.
fn binary<T>(content: &[u8], path: &str, wanted: Wanted) -> Result<T, Fault> {
    /// The identifiers pkcs7-data and pkcs7-signedData (RFC 2315), without the last byte.
    const PKCS7: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07];
    let head = content.get(..40).unwrap_or(content);
    let kind = head.windows(PKCS7.len() + 1).find_map(|window| window.strip_prefix(PKCS7));
    match (kind, wanted) {
        (Some([1]), Wanted::Certificates) => fault(
            "is a PKCS #12 store, not PEM",
            format!("openssl pkcs12 -in {path} -nokeys -out {path}.pem, and name that file"),
        ),
        (Some([1]), Wanted::PrivateKey) => fault(
            "is a PKCS #12 store, not PEM",
            format!(
                "umask 077; openssl pkcs12 -in {path} -nocerts -nodes -out {path}.pem, and name that file"
            ),
        ),
        (Some(_), _) => fault(
            "is PKCS #7 in DER, not PEM",
            format!("openssl pkcs7 -inform DER -in {path} -print_certs -out {path}.pem, and name that file"),
        ),
        (None, Wanted::Certificates) => fault(
            "is in DER, not PEM",
            format!("openssl x509 -inform DER -in {path} -out {path}.pem, and name that file"),
        ),
        (None, Wanted::PrivateKey) => fault(
            "is in DER, not PEM",
            format!("umask 077; openssl pkey -inform DER -in {path} -out {path}.pem, and name that file"),
        ),
    }
}

/// A file whose first block is of another kind.
fn other_block<T>(block: &Block<'_>, path: &str, wanted: Wanted) -> Result<T, Fault> {
    let name = wanted.name();
    // What is in the file is not ours: a label may be anything.
    let label: String = block.label.chars().filter(char::is_ascii_graphic).take(40).collect();
    let seen =
        format!("holds no {name}, but a {} at line {}", described(block).unwrap_or(&label), block.line);
    match (block.label, wanted) {
        _ if block.is_encrypted && wanted == Wanted::PrivateKey => fault(
            format!(
                "holds an encrypted private key at line {}, and the agent has no password for it",
                block.line
            ),
            format!(
                "umask 077; openssl pkey -in {path} -out {path}.plain asks for the password; name that file, or better pass it as an encrypted credential of systemd"
            ),
        ),
        ("OPENSSH PRIVATE KEY", Wanted::PrivateKey) => {
            fault(seen, format!("ssh-keygen -p -N '' -m PKCS8 -f {path} converts it in place"))
        }
        ("TRUSTED CERTIFICATE" | "X509 CERTIFICATE", Wanted::Certificates) => {
            fault(seen, format!("openssl x509 -in {path} -out {path}.pem, and name that file"))
        }
        ("PKCS7", Wanted::Certificates) => {
            fault(seen, format!("openssl pkcs7 -in {path} -print_certs -out {path}.pem, and name that file"))
        }
        ("CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST", Wanted::Certificates) => {
            fault(seen, "name the certificate that the authority has made from the request")
        }
        ("CERTIFICATE", Wanted::PrivateKey) | (_, Wanted::Certificates) if is_swapped(block, wanted) => {
            fault(
                seen,
                "name the other file: perhaps the certificate and the key are swapped in the configuration",
            )
        }
        _ => fault(seen, format!("write a {name} into it, or name another file")),
    }
}

fn is_swapped(block: &Block<'_>, wanted: Wanted) -> bool {
    match wanted {
        Wanted::PrivateKey => block.label == "CERTIFICATE",
        Wanted::Certificates => block.label.ends_with("PRIVATE KEY"),
    }
}

fn described(block: &Block<'_>) -> Option<&'static str> {
    Some(match block.label {
        "CERTIFICATE" => "certificate",
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => "request for a certificate",
        "X509 CRL" => "list of revoked certificates",
        "PKCS7" => "PKCS #7 store",
        "PUBLIC KEY" | "RSA PUBLIC KEY" => "public key",
        "OPENSSH PRIVATE KEY" => "private key of OpenSSH",
        "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => "certificate in a form of OpenSSL's own",
        "EC PARAMETERS" | "DH PARAMETERS" => "set of parameters",
        label if label.ends_with("PRIVATE KEY") => "private key",
        _ => return None,
    })
}

/// Every block of the file.
fn blocks<'a>(text: &'a str, path: &str) -> Result<Vec<Block<'a>>, Fault> {
    if text.contains("\\n") && text.lines().count() <= 2 && text.contains(BEGIN) {
        let remedy = format!(
            "printf '%b\\n' \"$(cat {path})\" | install -m 0600 /dev/stdin {path}.pem, and name that file"
        );
        return fault("has \\n in place of line breaks", remedy);
    }
    let mut blocks: Vec<Block<'a>> = Vec::new();
    let mut open = false;
    for (number, line) in (1..).zip(text.lines()) {
        let trimmed = line.trim();
        let is_marked = trimmed.contains(BEGIN) || trimmed.contains(END);
        let label = |marker: &str| {
            trimmed.strip_prefix(marker)?.strip_suffix(DASHES).filter(|label| !label.contains(DASHES))
        };
        if line.starts_with('\u{feff}') {
            let remedy = format!("sed -i 's/^\\xEF\\xBB\\xBF//' {path}");
            return fault(format!("has a byte order mark in line {number}"), remedy);
        }
        if is_marked && line.starts_with([' ', '\t']) {
            return fault(
                format!("has spaces before line {number}"),
                format!("sed -i 's/^[ \\t]*//' {path}"),
            );
        }
        if let Some(label) = label(BEGIN) {
            if open {
                return unfinished(blocks.last());
            }
            blocks.push(Block { label, line: number, is_encrypted: label.contains("ENCRYPTED") });
            open = true;
        } else if let Some(label) = label(END) {
            let Some(begun) = blocks.last().filter(|_| open) else {
                let what = format!("ends a block in line {number} that does not begin");
                return fault(what, "its beginning is missing: copy the whole file again");
            };
            if begun.label != label {
                let (begun, what) = (begun.line, format!("line {number} ends another kind of block"));
                return fault(
                    format!("is damaged: {what} than line {begun} begins"),
                    "copy the whole file again",
                );
            }
            open = false;
        } else if is_marked {
            let what = format!(
                "has more than BEGIN or END in line {number}: two files were joined without a line break, or the line is damaged"
            );
            return fault(
                what,
                format!("sed -i 's/-----END [A-Z0-9 ]*-----/&\\n/g' {path} separates joined blocks"),
            );
        } else if open && trimmed.starts_with("Proc-Type:") && trimmed.contains("ENCRYPTED") {
            blocks.iter_mut().last().into_iter().for_each(|block| block.is_encrypted = true);
        }
    }
    if open { unfinished(blocks.last()) } else { Ok(blocks) }
}

fn unfinished<T>(block: Option<&Block<'_>>) -> Result<T, Fault> {
    let line = block.map_or(1, |block| block.line);
    let what = format!("is cut: the block that begins in line {line} does not end");
    fault(what, "copy the whole file again, up to and with its last line (-----END …-----)")
}

/// Whether the text is nothing but base64.
fn is_base64(text: &str) -> bool {
    let is_digit =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'\r' | b'\n');
    text.trim().len() >= 64 && text.trim().bytes().all(is_digit)
}
