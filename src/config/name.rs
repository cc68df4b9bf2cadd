//! Names and paths as Vault and certificates know them.

/// Strips white space and slashes at the ends: `/admin/` is `admin`.
pub(super) fn normalise(path: &str) -> String {
    path.trim().trim_matches('/').to_owned()
}

/// A name that TLS can ask for and verify; an IP address is in the address already.
pub(super) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    text.split('.').all(label) && text.parse::<std::net::IpAddr>().is_err()
}

/// One part of a path, without anything that a URL would read otherwise.
pub(super) fn plain_segment(text: &str) -> bool {
    !text.is_empty()
        && !text.chars().all(|c| c == '.')
        && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '+'))
}

/// Such parts, joined by slashes.
pub(super) fn plain_path(text: &str) -> bool {
    text.split('/').all(plain_segment)
}
