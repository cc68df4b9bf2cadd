//! The node disruption policy of a MachineConfig: a change of our files or units restarts or reloads the service
//! instead of the node.

use serde_json::{Value, json};

use super::credentials::Credential;
use super::ignition::{FETCH, Ignition};

/// What the Machine Config Operator does when one of the files or units changes.
pub(super) fn disruption_policy(ignition: &Ignition, credentials: &[Credential]) -> Value {
    let restart = json!({ "type": "Restart", "restart": { "serviceName": "kms-plugin.service" } });
    let reload = json!({ "type": "Reload", "reload": { "serviceName": "kms-plugin.service" } });
    let files: Vec<Value> = ignition
        .files
        .iter()
        .filter_map(|file| file["path"].as_str())
        .map(|path| {
            // systemd passes a credential only at a start of the service.
            let is_credential = credentials.iter().any(|one| one.file.as_deref() == Some(path));
            let actions = match path {
                _ if path.starts_with("/etc/containers/systemd/") => {
                    json!([{ "type": "DaemonReload" }, restart])
                }
                _ if is_credential => json!([restart]),
                _ => json!([reload]),
            };
            json!({ "path": path, "actions": actions })
        })
        .collect();
    let restart_of = |unit: &str| json!({ "type": "Restart", "restart": { "serviceName": unit } });
    let fetches = ignition.units.iter().any(|unit| unit["name"] == FETCH);
    let units: Vec<Value> = ignition
        .units
        .iter()
        .filter_map(|unit| unit["name"].as_str())
        .map(|name| {
            let mut actions = vec![json!({ "type": "DaemonReload" })];
            match name {
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
