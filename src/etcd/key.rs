//! Keys in etcd: the resource and object of a key, and the prefix of a resource.
//!
//! Most built-in resources are stored without their group (`/registry/deployments/…`), custom resources with it
//! (`/registry/cert-manager.io/certificates/…`). OpenShift has two roots: `/kubernetes.io` and `/openshift.io`.

use std::borrow::Cow;

/// kube-apiserver's default for --etcd-prefix.
pub(crate) const DEFAULT_ROOT: &str = "/registry";

/// Resources that are stored under another name: the name below the root, and the name in the API.
const RENAMED: &[(&str, &str)] = &[
    ("services/specs", "services"),
    ("services/endpoints", "endpoints"),
    ("minions", "nodes"),
    ("controllers", "replicationcontrollers"),
    ("ingress", "ingresses"),
];

/// The resources that OpenShift's own API servers encrypt, with the prefix of each.
const OPENSHIFT: &[(&str, &str)] = &[
    ("/openshift.io/routes/", "routes.route.openshift.io"),
    ("/openshift.io/oauth/accesstokens/", "oauthaccesstokens.oauth.openshift.io"),
    ("/openshift.io/oauth/authorizetokens/", "oauthauthorizetokens.oauth.openshift.io"),
];

/// Groups with a dot in their name whose resources are stored without the group. Other `*.k8s.io` groups are custom
/// resources.
const BUILT_IN: &[&str] = &[
    "admissionregistration.k8s.io",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
];

/// The object of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectKey<'a> {
    /// `secrets`, or `certificates.cert-manager.io`: as kubectl and EncryptionConfiguration name it.
    pub resource: Cow<'a, str>,
    /// `namespace/name`, or the name alone.
    pub name: &'a str,
}

impl<'a> ObjectKey<'a> {
    /// Parses a key below `root`. The root of any other key is its first segment.
    pub(crate) fn parse(key: &'a str, root: &str) -> Self {
        for (prefix, resource) in OPENSHIFT {
            if let Some(name) = key.strip_prefix(prefix) {
                return Self { resource: (*resource).into(), name };
            }
        }
        let path = below(key, root).unwrap_or_else(|| {
            let path = key.trim_start_matches('/');
            path.split_once('/').map_or(path, |(_, rest)| rest)
        });
        for (stored, resource) in RENAMED {
            if let Some(name) = below(path, stored) {
                return Self { resource: (*resource).into(), name };
            }
        }
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        match rest.split_once('/') {
            Some((resource, name)) if first.contains('.') => {
                Self { resource: format!("{resource}.{first}").into(), name }
            }
            _ => Self { resource: first.into(), name: rest },
        }
    }

    /// The name, unless it is a secret: before 4.6, OpenShift named the object of a token after the token.
    pub(crate) fn shown_name(&self) -> &'a str {
        let token = self.resource.ends_with("tokens.oauth.openshift.io");
        if token && !self.name.starts_with("sha256~") { "(withheld: a token)" } else { self.name }
    }
}

/// The part of `path` below the folder `root`.
fn below<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    path.strip_prefix(root.trim_end_matches('/'))?.strip_prefix('/')
}

/// The core group's resources, as they are stored.
const CORE: &[&str] = &[
    "configmaps",
    "controllers",
    "events",
    "limitranges",
    "minions",
    "namespaces",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "resourcequotas",
    "secrets",
    "serviceaccounts",
    "services/endpoints",
    "services/specs",
];

/// Groups without a dot in their name; their resources are stored without the group.
const APPS: &[&str] = &["controllerrevisions", "daemonsets", "deployments", "replicasets", "statefulsets"];

/// The prefixes of a resource in an EncryptionConfiguration, `*.group` included; `None` for `*.*`, and for a group of
/// which the resources are not known here.
pub(crate) fn prefixes_of(resource: &str, root: &str) -> Option<Vec<String>> {
    let root = root.trim_end_matches('/');
    let below = |names: &[&str]| names.iter().map(|name| format!("{root}/{name}/")).collect();
    match resource.split_once('.') {
        Some(("*", "")) => Some(below(CORE)),
        Some(("*", "apps")) => Some(below(APPS)),
        Some(("*", "batch")) => Some(below(&["cronjobs", "jobs"])),
        Some(("*", group)) if group.contains('.') && !BUILT_IN.contains(&group) && !is_openshift(group) => {
            Some(vec![format!("{root}/{group}/")])
        }
        _ => prefix_of(resource, root).map(|prefix| vec![prefix]),
    }
}

/// A group of OpenShift's own API servers, whose resources are below another root.
fn is_openshift(group: &str) -> bool {
    OPENSHIFT.iter().any(|(_, name)| name.split_once('.').is_some_and(|(_, other)| other == group))
}

/// The prefixes that hold every object of the API servers: the root, and on OpenShift the one of its own API servers.
pub(crate) fn roots(root: &str) -> Vec<String> {
    let root = format!("{}/", root.trim_end_matches('/'));
    if root == "/kubernetes.io/" { vec![root, "/openshift.io/".to_owned()] } else { vec![root] }
}

/// The prefix of a resource; `None` for a wildcard.
pub(crate) fn prefix_of(resource: &str, root: &str) -> Option<String> {
    let root = root.trim_end_matches('/');
    if let Some((prefix, _)) = OPENSHIFT.iter().find(|(_, name)| *name == resource) {
        return Some((*prefix).to_owned());
    }
    let (name, group) = resource.split_once('.').unwrap_or((resource, ""));
    if name.is_empty() || name == "*" {
        return None;
    }
    if group.contains('.') && !BUILT_IN.contains(&group) {
        return Some(format!("{root}/{group}/{name}/"));
    }
    let stored = RENAMED.iter().find(|(_, renamed)| *renamed == name).map_or(name, |(stored, _)| stored);
    Some(format!("{root}/{stored}/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_name_resources_and_objects() {
        for (key, resource, name) in [
            ("/registry/secrets/default/db", "secrets", "default/db"),
            ("/registry/deployments/kube-system/coredns", "deployments", "kube-system/coredns"),
            ("/registry/cert-manager.io/certificates/web/tls", "certificates.cert-manager.io", "web/tls"),
            (
                "/registry/apiextensions.k8s.io/customresourcedefinitions/a.b.c",
                "customresourcedefinitions.apiextensions.k8s.io",
                "a.b.c",
            ),
            ("/registry/services/specs/default/kubernetes", "services", "default/kubernetes"),
            ("/registry/minions/node-1", "nodes", "node-1"),
            (
                "/kubernetes.io/secrets/openshift-config/pull-secret",
                "secrets",
                "openshift-config/pull-secret",
            ),
            ("/openshift.io/routes/web/front", "routes.route.openshift.io", "web/front"),
            (
                "/openshift.io/oauth/accesstokens/sha256~abc",
                "oauthaccesstokens.oauth.openshift.io",
                "sha256~abc",
            ),
            ("/openshift.io/builds/web/front-1", "builds", "web/front-1"),
            ("secrets", "secrets", ""),
            ("", "", ""),
        ] {
            let parsed = ObjectKey::parse(key, DEFAULT_ROOT);
            assert_eq!((&*parsed.resource, parsed.name), (resource, name), "{key}");
        }
        let parsed = ObjectKey::parse("/my/clusters/one/secrets/a/b", "/my/clusters/one/");
        assert_eq!((&*parsed.resource, parsed.name), ("secrets", "a/b"));
    }

    #[test]
    fn a_token_is_not_shown_as_a_name() {
        let old = ObjectKey::parse("/openshift.io/oauth/accesstokens/Zm9vYmFy", DEFAULT_ROOT);
        assert_eq!(old.shown_name(), "(withheld: a token)");
        let new = ObjectKey::parse("/openshift.io/oauth/authorizetokens/sha256~Zm9v", DEFAULT_ROOT);
        assert_eq!(new.shown_name(), "sha256~Zm9v");
    }

    #[test]
    fn resources_have_prefixes() {
        for (resource, prefix) in [
            ("secrets", Some("/registry/secrets/")),
            ("services", Some("/registry/services/specs/")),
            ("deployments.apps", Some("/registry/deployments/")),
            ("ingresses.networking.k8s.io", Some("/registry/ingress/")),
            ("certificates.cert-manager.io", Some("/registry/cert-manager.io/certificates/")),
            ("gateways.gateway.networking.k8s.io", Some("/registry/gateway.networking.k8s.io/gateways/")),
            ("routes.route.openshift.io", Some("/openshift.io/routes/")),
            ("*.*", None),
            ("*.apps", None),
            ("*.", None),
            ("", None),
        ] {
            assert_eq!(prefix_of(resource, "/registry/").as_deref(), prefix, "{resource}");
        }
        assert_eq!(prefix_of("secrets", "/kubernetes.io").as_deref(), Some("/kubernetes.io/secrets/"));
        let group = |resource: &str| prefixes_of(resource, "/registry");
        assert_eq!(group("*.example.com"), Some(vec!["/registry/example.com/".to_owned()]));
        assert_eq!(group("*.").map(|prefixes| prefixes.len()), Some(CORE.len()));
        assert_eq!(group("*.batch").map(|prefixes| prefixes.len()), Some(2));
        assert_eq!(
            (group("*.rbac.authorization.k8s.io"), group("*.route.openshift.io"), group("*.*")),
            (None, None, None)
        );
        assert_eq!(roots("/kubernetes.io/"), ["/kubernetes.io/", "/openshift.io/"]);
    }

    proptest! {
        #[test]
        fn any_key_is_read(key in ".{0,80}", root in ".{0,10}") {
            let parsed = ObjectKey::parse(&key, &root);
            prop_assert!(key.ends_with(parsed.name));
        }
    }
}
