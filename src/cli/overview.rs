//! The sections of kms-plugin(8) that the definition of the command line does not have: files, signals, endpoints,
//! related pages.

use roff::{Roff, bold, italic, roman};

use crate::config::{DEFAULT_FILE, DEFAULT_RUNTIME_DIR};

/// The files of the agent, with their defaults.
const FILES: [(&str, &str); 7] = [
    (DEFAULT_FILE, "The configuration. kms-plugin.toml(5) has every key."),
    (
        "/etc/kms-plugin/config.d/*.toml",
        "Fragments of the configuration, read after it in the order of their names. Packages never change them.",
    ),
    (
        "/run/kmsplugin/kms.sock",
        "The socket that kube-apiserver connects to (server.socket). kms-plugin.socket creates it for root, with mode 0600.",
    ),
    (
        "/run/kms-plugin/admin.sock",
        "The private socket for kms-plugin status, check, reload and accept-key (server.runtime_dir).",
    ),
    (
        "/run/kms-plugin/identity.json",
        "The identity of the key and the deadline of an outage, for the next start. It holds no secret.",
    ),
    (
        "/var/lib/kms-plugin/wrapped-keys.json",
        "With local KEKs: the list of keys to unwrap at a start, each wrapped by Vault (server.state_dir).",
    ),
    (
        "/usr/lib/systemd/system/kms-plugin.service",
        "The unit. systemctl edit kms-plugin changes it; kms-plugin check judges the changes.",
    ),
];

/// What each signal does.
const SIGNALS: [(&str, &str); 2] = [
    (
        "SIGTERM, SIGINT",
        "Stop: finish the calls that have begun, for at most server.drain_timeout, and exit with 0. A second signal ends the wait.",
    ),
    (
        "SIGHUP",
        "Reload the configuration, the credentials and the TLS files. When the new ones do not work, the old ones stay in use. kms-plugin reload does the same, and shows the result. Changes of [server] and [log] need a restart.",
    ),
];

/// The paths of the admin address and of the private socket.
const ENDPOINTS: [(&str, &str); 6] = [
    (
        "/healthz",
        "200 when nothing is wrong. It asks Vault, unless Vault answered a moment ago. Otherwise 503, with the reason and the remedy.",
    ),
    ("/readyz", "200 when an Encrypt would work now; otherwise 503."),
    ("/livez", "200 while the process serves; never depends on Vault. For liveness probes."),
    ("/status", "The state as JSON; kms-plugin status shows it to people."),
    ("/metrics", "Metrics for Prometheus."),
    ("POST /reload, POST /accept-key", "The commands of these names, on the private socket only."),
];

/// Adds the sections, in the order of man-pages(7).
pub(super) fn sections(page: &mut Roff) {
    list(page, "FILES", &FILES);
    list(page, "SIGNALS", &SIGNALS);
    page.control("SH", ["ENDPOINTS"]);
    page.text([
        roman("HTTP on "),
        italic("127.0.0.1:8690"),
        roman(" (server.admin), and with the private endpoints on "),
        italic(format!("{DEFAULT_RUNTIME_DIR}/admin.sock")),
        roman("."),
    ]);
    entries(page, &ENDPOINTS);
    see_also(
        page,
        &[
            ("kms-plugin.toml", "5"),
            ("kms-plugin-check", "8"),
            ("kms-plugin-status", "8"),
            ("systemctl", "1"),
            ("journalctl", "1"),
            ("systemd.socket", "5"),
        ],
    );
}

/// Adds the section with related pages, each with its section of the manual.
pub(super) fn see_also(page: &mut Roff, pages: &[(&str, &str)]) {
    page.control("SH", ["SEE ALSO"]);
    let mut text = Vec::new();
    for (name, section) in pages {
        if !text.is_empty() {
            text.push(roman(", "));
        }
        text.push(bold(*name));
        text.push(roman(format!("({section})")));
    }
    page.text(text);
}

fn list(page: &mut Roff, heading: &str, items: &[(&str, &str)]) {
    page.control("SH", [heading]);
    entries(page, items);
}

fn entries(page: &mut Roff, items: &[(&str, &str)]) {
    for (name, text) in items {
        page.control("TP", []);
        page.text([bold(*name)]);
        page.text([roman(*text)]);
    }
}
