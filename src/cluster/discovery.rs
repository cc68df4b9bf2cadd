//! Which resources the API servers serve: from names as EncryptionConfiguration has them to paths.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::answer::encoded;
use super::connection::{Call, Connection, JSON};
use super::error::CallError;

/// Largest answer, in bytes.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// A resource, in the version that the API server prefers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Resource {
    /// The plural, such as `secrets`.
    pub plural: String,
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub namespaced: bool,
    /// Whether another API server behind this one serves it.
    pub aggregated: bool,
}

impl Resource {
    /// `secrets`, `routes.route.openshift.io`: as kubectl and EncryptionConfiguration name it.
    pub(crate) fn name(&self) -> String {
        let dot = if self.group.is_empty() { "" } else { "." };
        format!("{}{dot}{}", self.plural, self.group)
    }

    /// The path of an object; with empty names, that of all objects of all namespaces.
    pub(super) fn path(&self, namespace: &str, name: &str) -> String {
        let mut path = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if self.namespaced && !namespace.is_empty() {
            path.push_str(&format!("/namespaces/{}", encoded(namespace)));
        }
        path.push_str(&format!("/{}", self.plural));
        if !name.is_empty() {
            path.push_str(&format!("/{}", encoded(name)));
        }
        path
    }
}

#[derive(Deserialize)]
struct GroupList {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: String,
    preferred_version: Version,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct ResourceList {
    resources: Vec<Served>,
}

#[derive(Deserialize)]
struct Served {
    name: String,
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct ServiceList {
    items: Vec<ApiService>,
}

#[derive(Deserialize)]
struct ApiService {
    spec: ApiServiceSpec,
}

#[derive(Deserialize)]
struct ApiServiceSpec {
    #[serde(default)]
    group: String,
    /// The service in front of another API server.
    service: Option<serde::de::IgnoredAny>,
}

/// What was found for the names.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    pub resources: Vec<Resource>,
    /// Names of which nothing is served.
    pub missing: Vec<String>,
}

/// The resources that can be listed and patched, for names such as `secrets`, `routes.route.openshift.io`, `*.apps` and
/// `*.*`.
///
/// # Errors
/// The API server does not say what it serves.
pub(crate) async fn resolve(connection: &Connection, names: &[String]) -> Result<Resolved, CallError> {
    let groups: GroupList = connection.json(Call::get("/apis", JSON, MAX_ANSWER)).await?;
    let aggregated = aggregated_groups(connection).await?;
    let mut resolved = Resolved::default();
    let mut found = BTreeSet::new();
    for name in names {
        let (plural, group) = name.split_once('.').unwrap_or((name, ""));
        let before = found.len();
        let mut wanted: Vec<(String, String)> = Vec::new();
        if group.is_empty() || group == "*" {
            wanted.push((String::new(), "v1".to_owned()));
        }
        for served in groups.groups.iter().filter(|served| served.name == group || group == "*") {
            wanted.push((served.name.clone(), served.preferred_version.version.clone()));
        }
        let mut known = false;
        for (group, version) in wanted {
            let path = match group.as_str() {
                "" => format!("/api/{version}"),
                group => format!("/apis/{group}/{version}"),
            };
            let list: ResourceList = connection.json(Call::get(path, JSON, MAX_ANSWER)).await?;
            for served in list.resources.into_iter().filter(|served| matches(plural, served)) {
                known = true;
                found.insert(Resource {
                    plural: served.name,
                    aggregated: aggregated.contains(&group),
                    group: group.clone(),
                    version: version.clone(),
                    namespaced: served.namespaced,
                });
            }
        }
        if !known && found.len() == before {
            resolved.missing.push(name.clone());
        }
    }
    // The same objects under the name of another group.
    let events = found.iter().any(|resource| resource.name() == "events");
    resolved.resources =
        found.into_iter().filter(|resource| !(events && resource.name() == "events.events.k8s.io")).collect();
    Ok(resolved)
}

/// Not a subresource, and something that can be listed and written.
fn matches(plural: &str, served: &Served) -> bool {
    let can = |verb: &str| served.verbs.iter().any(|other| other == verb);
    (plural == "*" || plural == served.name) && !served.name.contains('/') && can("list") && can("patch")
}

/// The groups that another API server serves. Empty where this user may not read that, and where there is no
/// aggregation.
async fn aggregated_groups(connection: &Connection) -> Result<BTreeSet<String>, CallError> {
    let path = "/apis/apiregistration.k8s.io/v1/apiservices";
    let list: Result<ServiceList, CallError> = connection.json(Call::get(path, JSON, MAX_ANSWER)).await;
    match list {
        Ok(list) => {
            let services = list.items.into_iter().filter(|item| item.spec.service.is_some());
            Ok(services.map(|item| item.spec.group).collect())
        }
        Err(error) if matches!(error.code(), Some(403 | 404)) => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_have_names_and_paths() {
        let secrets = Resource {
            plural: "secrets".into(),
            group: String::new(),
            version: "v1".into(),
            namespaced: true,
            aggregated: false,
        };
        assert_eq!((secrets.name(), secrets.path("", "")), ("secrets".into(), "/api/v1/secrets".into()));
        assert_eq!(secrets.path("a", "b:c"), "/api/v1/namespaces/a/secrets/b%3Ac");
        let tokens = Resource {
            plural: "oauthaccesstokens".into(),
            group: "oauth.openshift.io".into(),
            namespaced: false,
            aggregated: true,
            ..secrets
        };
        assert_eq!(tokens.name(), "oauthaccesstokens.oauth.openshift.io");
        assert_eq!(tokens.path("", "x"), "/apis/oauth.openshift.io/v1/oauthaccesstokens/x");
    }
}
