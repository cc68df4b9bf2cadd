//! StorageVersionMigration: kube-controller-manager writes each object of a resource once, where the API server serves
//! this (by default from Kubernetes 1.37).
//!
//! It ends at the first object that is refused, tries one that fails with an internal error without end, and knows no
//! rate. Its status says that it has written, and not under which key.

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::encoded;
use super::connection::{Call, Connection, JSON};
use super::discovery::Resource;
use super::error::CallError;
use crate::display::fit;

const GROUP: &str = "storagemigration.k8s.io";
/// The versions in which a migration names a resource without its version.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const MAX_ANSWER: usize = 1024 * 1024;

/// The API of migrations, in a version that the API server serves.
#[derive(Clone, Debug)]
pub(crate) struct Migration {
    version: &'static str,
}

/// How far a migration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MigrationState {
    /// Nobody has begun it.
    Waiting,
    Running {
        /// The controller's words.
        message: String,
        /// It writes what is not newer than this revision; `None` when it does not know yet.
        revision: Option<u64>,
    },
    Succeeded,
    /// The controller's words.
    Failed(String),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    conditions: Vec<Condition>,
    resource_version: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    message: String,
}

#[derive(Deserialize)]
struct Served {
    resources: Vec<Name>,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

impl Migration {
    /// `None` when the API server does not serve migrations.
    ///
    /// # Errors
    /// There is no answer.
    pub(crate) async fn served(connection: &Connection) -> Result<Option<Self>, CallError> {
        for version in VERSIONS {
            let path = format!("/apis/{GROUP}/{version}");
            match connection.json::<Served>(Call::get(path, JSON, MAX_ANSWER)).await {
                Ok(served) if served.resources.iter().any(|one| one.name == "storageversionmigrations") => {
                    return Ok(Some(Self { version }));
                }
                Ok(_) => {}
                Err(error) if error.code() == Some(404) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn path(&self, name: &str) -> String {
        let slash = if name.is_empty() { "" } else { "/" };
        format!("/apis/{GROUP}/{}/storageversionmigrations{slash}{}", self.version, encoded(name))
    }

    /// Makes one for a resource, and returns its name. One that an interrupted run has left is replaced: the controller
    /// runs one at a time for a resource.
    ///
    /// # Errors
    /// It is refused, or there is no answer.
    pub(crate) async fn begin(
        &self,
        connection: &Connection,
        resource: &Resource,
    ) -> Result<String, CallError> {
        let name = format!("kms-plugin-{}", resource.name());
        let made = self.make(connection, resource, &name).await;
        if !made.as_ref().is_err_and(|error| error.code() == Some(409)) {
            return made.map(|()| name);
        }
        self.remove(connection, &name).await?;
        self.make(connection, resource, &name).await.map(|()| name)
    }

    async fn make(&self, connection: &Connection, resource: &Resource, name: &str) -> Result<(), CallError> {
        let object = json!({
            "apiVersion": format!("{GROUP}/{}", self.version),
            "kind": "StorageVersionMigration",
            "metadata": { "name": name },
            "spec": { "resource": { "group": resource.group, "resource": resource.plural } },
        });
        let call = Call {
            method: Method::POST,
            path: self.path(""),
            accept: JSON,
            body: Some((JSON, object.to_string())),
            limit: MAX_ANSWER,
        };
        connection.json::<Value>(call).await.map(drop)
    }

    /// How far it is.
    ///
    /// # Errors
    /// There is no good answer.
    pub(crate) async fn state(
        &self,
        connection: &Connection,
        name: &str,
    ) -> Result<MigrationState, CallError> {
        let object: Object = connection.json(Call::get(self.path(name), JSON, MAX_ANSWER)).await?;
        Ok(object.status.state())
    }

    /// Removes it.
    ///
    /// # Errors
    /// There is no good answer.
    pub(crate) async fn remove(&self, connection: &Connection, name: &str) -> Result<(), CallError> {
        let mut call = Call::get(self.path(name), JSON, MAX_ANSWER);
        call.method = Method::DELETE;
        connection.json::<Value>(call).await.map(drop)
    }
}

impl Status {
    fn state(&self) -> MigrationState {
        let is = |kind: &str| {
            let found = self.conditions.iter().find(|one| one.kind == kind && one.status == "True");
            found.map(|condition| fit(&condition.message, 300))
        };
        match (is("Succeeded"), is("Failed"), is("Running")) {
            (Some(_), ..) => MigrationState::Succeeded,
            (_, Some(why), _) => MigrationState::Failed(why),
            (_, _, Some(message)) => {
                MigrationState::Running { message, revision: self.resource_version.parse().ok() }
            }
            _ => MigrationState::Waiting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_a_state() {
        let state = |conditions: Value| {
            let status = json!({ "conditions": conditions, "resourceVersion": "483" });
            let object: Object = serde_json::from_value(json!({ "status": status })).unwrap();
            object.status.state()
        };
        // Types and messages of kube-controller-manager 1.36 and 1.37.
        let one = |kind: &str, message: &str| json!({ "type": kind, "status": "True", "message": message });
        assert_eq!(state(json!([])), MigrationState::Waiting);
        let running = one("Running", "3/10 not yet migrated");
        assert_eq!(
            state(json!([running])),
            MigrationState::Running { message: "3/10 not yet migrated".into(), revision: Some(483) }
        );
        assert_eq!(
            state(json!([running, one("Failed", "migration encountered unhandled error: x")])),
            MigrationState::Failed("migration encountered unhandled error: x".into())
        );
        assert_eq!(
            state(json!([running, one("Succeeded", "Migration completed")])),
            MigrationState::Succeeded
        );
        // The first version of its status, before it has a revision.
        let begun = json!({ "conditions": [one("Running", "The migration is running")] });
        let object: Object = serde_json::from_value(json!({ "status": begun })).unwrap();
        let message = "The migration is running".into();
        assert_eq!(object.status.state(), MigrationState::Running { message, revision: None });
    }
}
