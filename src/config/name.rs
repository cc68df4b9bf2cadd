//! Rules for names and paths in Vault and in certificates.

/// A path without white space and slashes at its ends: `/admin/` becomes `admin`.
pub(super) fn normalise(path: &str) -> String {
    path.trim().trim_matches('/').to_owned()
}

/// Whether TLS can request and verify this name. An IP address is not a name.
pub(super) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    text.split('.').all(label) && text.parse::<std::net::IpAddr>().is_err()
}

/// Whether `text` is one part of a path, without characters that have a meaning in a URL.
pub(super) fn plain_segment(text: &str) -> bool {
    !text.is_empty()
        && !text.chars().all(|c| c == '.')
        && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '+'))
}

/// Whether `text` consists of such parts, joined by slashes.
pub(super) fn plain_path(text: &str) -> bool {
    text.split('/').all(plain_segment)
}
