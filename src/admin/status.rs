//! `/status`, `/refused` and `/accepted`: converts the snapshot to the types of the API.

use std::collections::BTreeMap;

use super::api_types::{
    Address, Config, Key, KmsStatus, LocalKeks, Phase, Reason, Service, Status, Token, Warning,
};
use crate::clock::BootTime;
use crate::fips;
use crate::health::{self, Announce, ServiceState, Snapshot};
use crate::key_service::{AddressState, KeyWarning, KnownKey, TokenState};
use crate::local_kek::LocalKekState;
use crate::telemetry::metrics::Metrics;

impl From<health::Phase> for Phase {
    fn from(phase: health::Phase) -> Self {
        match phase {
            health::Phase::Starting => Self::Starting,
            health::Phase::Ready => Self::Ready,
            health::Phase::Degraded => Self::Degraded,
            health::Phase::Failed => Self::Failed,
            health::Phase::Stopping => Self::Stopping,
        }
    }
}

/// The answer of `/status`.
pub(super) fn status(snapshot: &Snapshot, metrics: &Metrics) -> Status {
    let now = BootTime::now();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fips: fips::module(),
        phase: snapshot.phase.into(),
        line: snapshot.line(),
        summary: snapshot.summary(),
        for_seconds: now.since(snapshot.since).as_secs(),
        reason: snapshot.reason.as_ref().map(|reason| Reason {
            kind: reason.kind.name().to_owned(),
            text: reason.text.clone(),
            remedy: reason.remedy.clone(),
        }),
        grace_left_seconds: snapshot.grace_end.map(|end| end.since(now).as_secs()),
        last_contact_seconds_ago: snapshot.last_contact.map(|contact| now.since(contact).as_secs()),
        kms_status: match snapshot.announce {
            Announce::Ok => KmsStatus::Ok,
            Announce::Unhealthy => KmsStatus::Unhealthy,
            Announce::Refused => KmsStatus::Refused,
            Announce::Unknown => KmsStatus::Unknown,
        },
        primary: service(&snapshot.primary),
        decrypt_only: snapshot.decrypt_only.iter().map(service).collect(),
        unreadable_key_ids: u64::try_from(metrics.unreadable()).unwrap_or_default(),
        offline: snapshot.local_keks.as_ref().map(|state| local_keks(state, now)),
        config: Config {
            in_use: snapshot.config.problem.is_none(),
            problem: snapshot.config.problem.as_deref().map(str::to_owned),
            digest: snapshot.config.digest.to_string(),
        },
    }
}

fn service(state: &ServiceState) -> Service {
    Service {
        name: state.name.clone(),
        key: state.key.as_ref().map(key),
        token: state.token.as_ref().map(token),
        addresses: state.addresses.iter().map(address).collect(),
        problem: state.problem.clone(),
        ignored_namespace: state.ignored_namespace.as_ref().map(warning),
    }
}

fn warning(warning: &KeyWarning) -> Warning {
    Warning { text: warning.text.clone(), remedy: warning.remedy.clone() }
}

fn key(key: &KnownKey) -> Key {
    Key {
        scope: key.scope.clone(),
        key_id: key.key_id.to_string(),
        version: key.version,
        created: key.created,
        min_encryption: key.min_encryption,
        min_decryption: key.min_decryption,
        versions: key.versions.clone(),
        cluster_id: key.cluster_id.clone(),
        warnings: key.warnings.iter().map(warning).collect(),
    }
}

fn token(token: &TokenState) -> Token {
    Token {
        method: token.method.to_owned(),
        held: token.held,
        expires: token.expires,
        renewable: token.renewable,
        logins: token.logins,
        problem: token.problem.clone(),
    }
}

fn address(address: &AddressState) -> Address {
    Address {
        address: address.address.clone(),
        reachable: address.reachable,
        reason: address.reason.clone(),
        preferred: address.preferred,
    }
}

fn local_keks(state: &LocalKekState, now: BootTime) -> LocalKeks {
    LocalKeks {
        line: state.line(),
        left_seconds: state.left(now).as_secs(),
        ready: state.ready,
        max_offline_seconds: state.max_offline_seconds,
        keks: state.keks as u64,
        seeds: state.seeds as u64,
        missing: state.missing as u64,
        crowded: state.evicted,
        made: state.made,
        uses: state.uses,
        unwraps: state.unwraps,
        locked: state.locked,
        kept: state.held_by_systemd,
    }
}

/// `/refused`: a hash of the refused credentials of each key service that was refused.
pub(super) fn refused(snapshot: &Snapshot) -> BTreeMap<&str, &str> {
    let services = snapshot.services();
    services
        .filter_map(|service| Some((service.name.as_str(), service.token.as_ref()?.refused.as_deref()?)))
        .collect()
}

/// `/accepted`: a hash of the credentials of each key service that the agent is logged in with.
pub(super) fn accepted(snapshot: &Snapshot) -> BTreeMap<&str, &str> {
    let services = snapshot.services();
    let with_token = services.filter_map(|service| Some((service, service.token.as_ref()?)));
    with_token
        .filter(|(_, token)| token.held)
        .filter_map(|(service, token)| Some((service.name.as_str(), token.accepted.as_deref()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::admin::test_snapshot::ready;

    /// The names of the fields of `value`, sorted.
    fn fields(value: &Value) -> Vec<&str> {
        let mut names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_fields_of_the_status_are_those_that_other_programs_read() {
        let json = serde_json::to_value(status(&ready(), &Metrics::default())).unwrap();
        let top = "config decrypt_only for_seconds grace_left_seconds kms_status last_contact_seconds_ago line offline \
                   phase primary reason summary unreadable_key_ids version";
        assert_eq!(fields(&json).join(" ").replace("fips ", ""), top);
        assert_eq!(json.get("fips").is_some(), fips::BUILD, "only the FIPS build has this field");
        assert_eq!((&json["phase"], &json["kms_status"]), (&"ready".into(), &"ok".into()));
        let primary = &json["primary"];
        assert_eq!(fields(primary).join(" "), "addresses ignored_namespace key name problem token");
        let key = "cluster_id created key_id min_decryption min_encryption scope version versions warnings";
        assert_eq!(fields(&primary["key"]).join(" "), key);
        assert_eq!(fields(&primary["key"]["scope"]).join(" "), "key mount namespace");
        assert_eq!(primary["key"]["versions"], serde_json::json!({ "1": 10, "2": 20 }));
        assert_eq!(fields(&primary["key"]["warnings"][0]).join(" "), "remedy text");
        let token = "expires held logins method problem renewable";
        assert_eq!(fields(&primary["token"]).join(" "), token, "and not the hash of refused credentials");
        assert_eq!(fields(&primary["addresses"][0]).join(" "), "address preferred reachable reason");
        assert_eq!((&json["reason"], &json["offline"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn an_outage_shows_its_reason_and_the_time_that_is_left() {
        let mut snapshot = ready();
        snapshot.phase = health::Phase::Degraded;
        snapshot.grace_end = Some(BootTime::now().plus(std::time::Duration::from_secs(100)));
        snapshot.reason = Some(health::Reason {
            kind: health::ReasonKind::Unreachable,
            text: "no answer".into(),
            remedy: "repair the network".into(),
        });
        let json = serde_json::to_value(status(&snapshot, &Metrics::default())).unwrap();
        assert_eq!(fields(&json["reason"]).join(" "), "kind remedy text");
        assert_eq!(json["reason"]["kind"], "unreachable");
        assert!((99..=100).contains(&json["grace_left_seconds"].as_u64().unwrap()));
    }

    #[test]
    fn refused_credentials_are_named_by_their_key_service() {
        let mut snapshot = ready();
        assert!(refused(&snapshot).is_empty());
        snapshot.primary.token.as_mut().unwrap().refused = Some("abc".into());
        assert_eq!(refused(&snapshot), BTreeMap::from([("primary", "abc")]));
        snapshot.primary.token.as_mut().unwrap().accepted = Some("def".into());
        assert_eq!(accepted(&snapshot), BTreeMap::from([("primary", "def")]));
        snapshot.primary.token.as_mut().unwrap().held = false;
        assert!(accepted(&snapshot).is_empty(), "without a token, it is not logged in");
    }
}
