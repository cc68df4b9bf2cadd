//! What `kms-plugin rewrite` needs in a cluster: the least rights, and a Job or a CronJob.

use serde_json::{Value, json};

use super::ManifestError;

/// The name of all objects.
const NAME: &str = "kms-plugin-rewrite";

pub(crate) struct Rewrite<'a> {
    /// As EncryptionConfiguration names them.
    pub resources: &'a [String],
    /// Where the service account and the Job are.
    pub namespace: &'a str,
}

pub(crate) struct Job<'a> {
    /// Named by its digest ([`super::check_image`]).
    pub image: &'a str,
    /// As cron has it; `None`: once, now.
    pub schedule: Option<&'a str>,
    /// The directory with etcd's `ca.crt`, `healthcheck-client.crt` and `healthcheck-client.key` on the node; `None`:
    /// without a proof.
    pub etcd_pki: Option<&'a str>,
}

/// The service account, its rights, and nothing else.
pub(crate) fn rights(options: &Rewrite<'_>) -> Result<String, ManifestError> {
    let mut rules: Vec<Value> = Vec::new();
    for (group, plurals) in groups(options.resources) {
        rules.push(json!({ "apiGroups": [group], "resources": plurals, "verbs": ["list", "patch"] }));
    }
    rules.extend([
        // Which cluster this is.
        json!({ "apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"], "verbs": ["get"] }),
        // Which resources other API servers serve.
        json!({ "apiGroups": ["apiregistration.k8s.io"], "resources": ["apiservices"], "verbs": ["list"] }),
        json!({
            "apiGroups": ["storagemigration.k8s.io"], "resources": ["storageversionmigrations"],
            "verbs": ["create", "get", "delete"],
        }),
        // Whether an API server has the new key.
        json!({ "nonResourceURLs": ["/metrics", "/readyz/kms-providers"], "verbs": ["get"] }),
    ]);
    let subject = json!([{ "kind": "ServiceAccount", "name": NAME, "namespace": options.namespace }]);
    let role = |kind: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": NAME });
    let comment = "The least rights for `kms-plugin rewrite`. Note: RBAC has no right to list metadata only. `list` on secrets lets this\n\
                   account read their values, although the command never asks for them. Remove the binding when the work is done.";
    super::documents(&[
        (
            comment.into(),
            json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": { "name": NAME, "namespace": options.namespace },
            }),
        ),
        (
            String::new(),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "metadata": { "name": NAME }, "rules": rules,
            }),
        ),
        (
            String::new(),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": { "name": NAME }, "roleRef": role("ClusterRole"), "subjects": subject,
            }),
        ),
        (
            "The addresses of the API servers.".into(),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                "metadata": { "name": NAME, "namespace": "default" },
                "rules": [{ "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"] }],
            }),
        ),
        (
            String::new(),
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": { "name": NAME, "namespace": "default" }, "roleRef": role("Role"), "subjects": subject,
            }),
        ),
    ])
}

/// A Job or a CronJob on a control plane node, where the agent is. Needs the service account of [`rights`].
pub(crate) fn job(options: &Rewrite<'_>, job: &Job<'_>) -> Result<String, ManifestError> {
    let mut args = vec![
        "rewrite".to_owned(),
        format!("--resource={}", options.resources.join(",")),
        // The pod's own files end with it, and the run needs none.
        "--no-state".to_owned(),
        "--output=json".to_owned(),
    ];
    let mut mounts = vec![json!({ "name": "agent", "mountPath": "/run/kms-plugin", "readOnly": true })];
    let mut volumes =
        vec![json!({ "name": "agent", "hostPath": { "path": "/run/kms-plugin", "type": "Directory" } })];
    if let Some(pki) = job.etcd_pki {
        args.extend(
            [
                "--endpoint=https://127.0.0.1:2379",
                "--cacert=/etcd/ca.crt",
                "--cert=/etcd/healthcheck-client.crt",
                "--key=/etcd/healthcheck-client.key",
            ]
            .map(str::to_owned),
        );
        mounts.push(json!({ "name": "etcd", "mountPath": "/etcd", "readOnly": true }));
        volumes.push(json!({ "name": "etcd", "hostPath": { "path": pki, "type": "Directory" } }));
    }
    let pod = json!({
        "serviceAccountName": NAME,
        "restartPolicy": "Never",
        "hostNetwork": true,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "enableServiceLinks": false,
        "nodeSelector": { "node-role.kubernetes.io/control-plane": "" },
        "tolerations": [{ "key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule" }],
        "containers": [{
            "name": "rewrite",
            "image": job.image,
            "imagePullPolicy": "IfNotPresent",
            "args": args,
            "resources": { "requests": { "cpu": "50m", "memory": "32Mi" }, "limits": { "memory": "128Mi" } },
            // The agent's admin socket and etcd's client key belong to root.
            "securityContext": super::root_without_capabilities(),
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
    });
    // Another attempt does not change that the time is not right (2), that there is no proof (3), or the command line (64).
    // One after 1 or 69 goes on with what is left.
    let spec = json!({
        "backoffLimit": 6,
        "podFailurePolicy": { "rules": [
            { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget" }] },
            { "action": "FailJob", "onExitCodes": { "operator": "In", "values": [2, 3, 64] } },
        ] },
        "template": { "spec": pod },
    });
    let metadata = json!({ "name": NAME, "namespace": options.namespace });
    let (comment, document) = match job.schedule {
        None => (
            "Needs the service account of `kms-plugin render rbac`. The Job has failed when etcd did not prove the result.",
            json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec }),
        ),
        Some(schedule) => (
            "Needs the service account of `kms-plugin render rbac`. A run that finds nothing to do writes nothing.",
            json!({
                "apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata,
                "spec": {
                    "schedule": schedule, "concurrencyPolicy": "Forbid", "jobTemplate": { "spec": spec },
                },
            }),
        ),
    };
    super::documents(&[(comment.into(), document)])
}

/// The plurals by group, in the order in which they come. A wildcard stays one.
fn groups(resources: &[String]) -> Vec<(&str, Vec<&str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for resource in resources {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        match groups.iter_mut().find(|(other, _)| *other == group) {
            Some((_, plurals)) => plurals.push(plural),
            None => groups.push((group, vec![plural])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_grouped() {
        let resources = ["secrets", "routes.route.openshift.io", "configmaps", "*.*"].map(str::to_owned);
        assert_eq!(
            groups(&resources),
            [("", vec!["secrets", "configmaps"]), ("route.openshift.io", vec!["routes"]), ("*", vec!["*"])]
        );
    }
}
