//! The node disruption policy of a MachineConfig: a change of our files or units restarts or reloads the service
//! instead of the node.

use serde_json::{Value, json};

use super::credentials::Credential;
use super::ignition::{APPLY, FETCH, Ignition};

/// What the Machine Config Operator does when one of the files or units changes.
pub(super) fn disruption_policy(ignition: &Ignition, credentials: &[Credential]) -> Value {
    let daemon_reload = json!({ "type": "DaemonReload" });
    let restart_of = |unit: &str| json!({ "type": "Restart", "restart": { "serviceName": unit } });
    let restart = restart_of("kms-plugin.service");
    let has = |name: &str| ignition.units.iter().any(|unit| unit["name"] == name);
    let fetches = has(FETCH);
    // A new image in the operating system reboots the node, so there only the configuration can change.
    let apply = if has(APPLY) {
        json!([daemon_reload, restart_of(APPLY)])
    } else {
        json!([{ "type": "Reload", "reload": { "serviceName": "kms-plugin.service" } }])
    };
    let files: Vec<Value> = ignition
        .files
        .iter()
        .filter_map(|file| file["path"].as_str())
        .map(|path| {
            // systemd passes a credential only at a start of the service.
            let is_credential = credentials.iter().any(|one| one.file.as_deref() == Some(path));
            let actions = match path {
                _ if path.starts_with("/etc/containers/systemd/") => {
                    json!([daemon_reload, restart])
                }
                _ if is_credential => json!([restart]),
                _ => apply.clone(),
            };
            json!({ "path": path, "actions": actions })
        })
        .collect();
    let units: Vec<Value> = ignition
        .units
        .iter()
        .filter_map(|unit| unit["name"].as_str())
        .map(|name| {
            let mut actions = vec![daemon_reload.clone()];
            match name {
                // Nothing runs from it.
                APPLY => {}
                // A restart of the socket restarts the service, too.
                "kms-plugin.socket" | "kms-plugin-rebind.path" => {
                    actions.push(restart_of("kms-plugin.socket"))
                }
                // Another image. When its pull fails, the operator stops here, and the old agent still runs.
                _ if fetches => actions.extend([restart_of(FETCH), restart.clone()]),
                _ => actions.push(restart.clone()),
            }
            json!({ "name": name, "actions": actions })
        })
        .collect();
    json!({
        "apiVersion": "operator.openshift.io/v1",
        "kind": "MachineConfiguration",
        "metadata": { "name": "cluster" },
        "spec": { "nodeDisruptionPolicy": { "files": files, "units": units } },
    })
}
