//! The endpoint of a KMS provider: `unix://` and the path of a socket.

use std::path::{Path, PathBuf};

/// The endpoint that makes kube-apiserver call the plugin on `socket`.
pub(crate) fn of_socket(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// The normal form of a socket's path, to compare endpoints and paths. `unix://` in front is optional, `/var/run` is
/// `/run`, and slashes may be repeated.
pub(crate) fn normalise(endpoint: &str) -> PathBuf {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    let path = path.strip_prefix("/var/run/").map_or_else(|| path.to_owned(), |rest| format!("/run/{rest}"));
    path.split('/').filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spelling_of_a_socket_is_the_same_path() {
        let socket = normalise("/run/kmsplugin/kms.sock");
        for endpoint in [
            "unix:///run/kmsplugin/kms.sock",
            "unix:///var/run/kmsplugin/kms.sock",
            "unix:////run//kmsplugin/kms.sock",
            "/var/run/kmsplugin/kms.sock",
        ] {
            assert_eq!(normalise(endpoint), socket, "{endpoint}");
        }
        assert_ne!(normalise("unix:///run/other/kms.sock"), socket);
        assert_eq!(normalise(&of_socket(Path::new("/run/kmsplugin/kms.sock"))), socket);
    }
}
