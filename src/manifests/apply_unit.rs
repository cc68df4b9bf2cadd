//! The unit that puts a changed configuration into use, for the disruption policy.
//!
//! A policy has fixed actions for each file, and the Machine Config Operator runs those of files before those of
//! units. When a configuration changes together with the image, a reload comes first, and the old executable may
//! not know the new configuration: then the operator rolls back and degrades the node. So one unit decides. It also
//! checks the configuration with the new executable before anything changes. The operator stops at the first node
//! where that fails, and the old agent still serves there.

use super::pull::{PROXY, PULLS};

/// For executables that were copied out of an image to `binary`.
pub(super) fn fetch(binary: &str) -> String {
    // The kernel resolves links, so the path of the unit must be resolved, too.
    let running = format!(
        "[ \"$$(readlink -f {binary})\" = \"$$(readlink /proc/$$(systemctl show --value -p MainPID kms-plugin.service)/exe)\" ]"
    );
    // Without a new image, kms-plugin-fetch.service ends at once.
    let check =
        format!("ExecStart=/usr/bin/systemctl start kms-plugin-fetch.service\nExecStart={binary} config\n");
    unit(&check, &running)
}

/// For a container that runs `image`.
pub(super) fn quadlet(image: &str) -> String {
    let running = format!("[ \"$$(podman inspect --format {{{{.ImageName}}}} kms-plugin)\" = {image} ]");
    let check = format!(
        "ExecStart=/usr/bin/podman run --rm --authfile=/var/lib/kubelet/config.json --http-proxy=false --network=none \
         --security-opt=label=disable --volume=/etc/kms-plugin:/etc/kms-plugin:ro {image} config\n"
    );
    unit(&check, &running)
}

/// `running` is a shell condition: the service runs the executable that its unit names. systemd reads `$$` as `$`.
fn unit(check: &str, running: &str) -> String {
    format!(
        "# The disruption policy starts this when the configuration changes. A failure changes nothing.\n\
         [Unit]\nDescription=Put a new configuration of kms-plugin into use\n{PULLS}\n\
         [Service]\nType=oneshot\nTimeoutStartSec=300s\n{PROXY}\
         # Is the configuration good?\nStandardOutput=null\n{check}\
         # A reload keeps the old configuration if the new one does not work. A new executable needs a restart. It\n\
         # refuses no connection.\n\
         ExecStart=/bin/sh -c 'if {running}; then exec systemctl reload kms-plugin.service; fi; exec systemctl restart kms-plugin.service'\n"
    )
}
