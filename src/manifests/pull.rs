//! What a unit needs that pulls an image on a node of OpenShift, as machine-config-daemon-pull.service has it.

/// For `[Unit]`. crio-wipe.service removes the images of a node that was not shut down cleanly, so a pull comes after.
pub(super) const PULLS: &str =
    "Wants=network-online.target crio-wipe.service\nAfter=network-online.target crio-wipe.service\n";

/// For `[Service]`: the cluster's proxy. The operator writes this file, which is empty without a proxy.
pub(super) const PROXY: &str = "EnvironmentFile=-/etc/mco/proxy.env\n";
