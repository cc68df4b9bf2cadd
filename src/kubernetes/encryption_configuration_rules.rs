//! Kubernetes' rules for an EncryptionConfiguration whose fields are right (`ValidateEncryptionConfiguration` and the
//! loader of `k8s.io/apiserver`).

use super::encryption_configuration::{Key, Kms, Problem, Provider, Rule};
use super::encryption_configuration_shape::{RawKms, RawProvider, RawRule};
use super::endpoint;

/// Most problems that are told.
const MAX_PROBLEMS: usize = 20;
/// Lengths of keys, in bytes.
const AES: &[usize] = &[16, 24, 32];
const SECRETBOX: &[usize] = &[32];

/// A resource and its group, as the loader splits them: at the first dot.
type GroupResource<'a> = (&'a str, &'a str);

struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, place: &str, what: impl Into<String>, remedy: &'static str) {
        if self.0.len() < MAX_PROBLEMS {
            self.0.push(Problem { place: place.to_owned(), what: what.into(), remedy });
        }
    }
}

/// Everything for which kube-apiserver refuses these rules.
pub(super) fn problems(rules: &[RawRule]) -> Vec<Problem> {
    let mut found = Found(Vec::new());
    if rules.is_empty() {
        found.add("resources", "is empty", "name what is to be encrypted");
    }
    let mut names: Vec<&str> = Vec::new();
    let mut earlier: Vec<GroupResource<'_>> = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let place = format!("resources[{at}]");
        resources(&rule.resources, &format!("{place}.resources"), &mut found);
        if rule.providers.is_empty() {
            found.add(&format!("{place}.providers"), "is empty", "name a provider, or identity: {}");
        }
        for (at, one) in rule.providers.iter().enumerate() {
            provider(one, &format!("{place}.providers[{at}]"), &mut names, &mut found);
        }
        masked(&rule.resources, &mut earlier, &format!("{place}.resources"), &mut found);
    }
    found.0
}

/// The rules, when there is no problem.
pub(super) fn usable(rules: Vec<RawRule>) -> Vec<Rule> {
    let provider = |raw: RawProvider| match raw {
        RawProvider { kms: Some(kms), .. } => Provider::Kms(Kms {
            name: kms.name,
            endpoint: kms.endpoint,
            timeout: kms.timeout.unwrap_or_default(),
        }),
        RawProvider { aesgcm: Some(keys), .. } => Provider::AesGcm(keys),
        RawProvider { aescbc: Some(keys), .. } => Provider::AesCbc(keys),
        RawProvider { secretbox: Some(keys), .. } => Provider::Secretbox(keys),
        _ => Provider::Identity,
    };
    let rule = |raw: RawRule| Rule {
        resources: raw.resources,
        providers: raw.providers.into_iter().map(provider).collect(),
    };
    rules.into_iter().map(rule).collect()
}

fn split(resource: &str) -> GroupResource<'_> {
    resource.split_once('.').unwrap_or((resource, ""))
}

fn resources(resources: &[String], place: &str, found: &mut Found) {
    if resources.is_empty() {
        found.add(place, "is empty", "name what is to be encrypted");
    }
    let parsed: Vec<_> = resources.iter().map(|resource| split(resource)).collect();
    let pairs =
        || parsed.iter().enumerate().flat_map(|(i, a)| parsed.iter().skip(i + 1).map(move |b| (a, b)));
    if pairs().any(|(a, b)| a == b) {
        found.add(place, "names a resource twice", "name each resource once");
    }
    let all = ("*", "*");
    let overlap = |a: GroupResource<'_>, b: GroupResource<'_>| {
        a != b && (a == all || b == all || (a.1 == b.1 && (a.0 == "*" || b.0 == "*")))
    };
    // Two wildcards that are equal overlap, too, beside a third resource; those are refused as named twice.
    if pairs().any(|(a, b)| overlap(*a, *b)) {
        found.add(
            place,
            "names a resource beside a wildcard that covers it",
            "use lists of their own, the wildcard last",
        );
    }
    for (at, resource) in resources.iter().enumerate() {
        if let Some((what, remedy)) = name_problem(resource) {
            found.add(&format!("{place}[{at}]"), what, remedy);
        }
    }
}

fn name_problem(resource: &str) -> Option<(&'static str, &'static str)> {
    let (name, group) = split(resource);
    Some(match resource {
        _ if resource.to_lowercase() != resource => {
            ("has capitals", "write the resource as kubectl api-resources names it")
        }
        "*" => ("is \"*\"", "write *. for the core group, or *.* for every resource"),
        "apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations" => {
            ("is not in the API, so it cannot be encrypted", "remove it")
        }
        _ if group == "events.k8s.io" => {
            ("is in the group events.k8s.io", "write events: etcd has them in the core group")
        }
        _ if group == "extensions" => {
            ("is in the group extensions, which Kubernetes has removed", "remove it")
        }
        _ if group == "*" && name != "*" => ("is one resource of every group", "name each group"),
        _ => return None,
    })
}

/// An earlier rule with a wildcard covers all of it.
fn masked<'a>(resources: &'a [String], earlier: &mut Vec<GroupResource<'a>>, place: &str, found: &mut Found) {
    for (at, resource) in resources.iter().enumerate() {
        let (name, group) = split(resource);
        if earlier.contains(&("*", group)) || earlier.contains(&("*", "*")) {
            let remedy = "put the rule before the wildcard";
            found.add(&format!("{place}[{at}]"), "is masked by a wildcard before it", remedy);
        }
        earlier.push((name, group));
    }
}

fn provider<'a>(provider: &'a RawProvider, place: &str, names: &mut Vec<&'a str>, found: &mut Found) {
    let RawProvider { kms: kms_provider, aesgcm, aescbc, secretbox, identity } = provider;
    let number = usize::from(kms_provider.is_some())
        + [aesgcm, aescbc, secretbox].into_iter().flatten().count()
        + usize::from(*identity);
    match number {
        0 => found.add(
            place,
            "names no provider",
            "write kms, aescbc, aesgcm, secretbox, or identity: {} with the braces",
        ),
        1 => {}
        _ => found.add(place, "names more than one provider", "write each provider as an element of its own"),
    }
    if let Some(provider) = kms_provider {
        kms(provider, &format!("{place}.kms"), names, found);
        names.push(&provider.name);
    }
    for (kind, provider, lengths) in
        [("aesgcm", aesgcm, AES), ("aescbc", aescbc, AES), ("secretbox", secretbox, SECRETBOX)]
    {
        if let Some(provider) = provider {
            keys(provider, lengths, &format!("{place}.{kind}.keys"), found);
        }
    }
}

fn kms(kms: &RawKms, place: &str, names: &[&str], found: &mut Found) {
    let mut add = |field: &str, what: String, remedy| found.add(&format!("{place}.{field}"), what, remedy);
    if kms.name.is_empty() {
        add("name", "is empty".into(), "give the provider a name");
    }
    if kms.name.contains(':') {
        add("name", "must not contain a colon".into(), "remove it: in etcd the name ends at a colon");
    }
    if names.contains(&kms.name.as_str()) {
        add(
            "name",
            "is the name of an earlier KMS provider, too".into(),
            "give each KMS provider a name of its own, also where it calls the same socket",
        );
    }
    if kms.timeout.is_none() {
        add(
            "timeout",
            "is not a duration of Kubernetes that is longer than zero".into(),
            "write it as 3s or 500ms",
        );
    }
    if let Err(what) = endpoint::parse(&kms.endpoint) {
        add(
            "endpoint",
            what.into(),
            "write it as unix:// and the path of the socket: unix:///run/kmsplugin/kms.sock",
        );
    }
    if kms.has_cache_size {
        add("cachesize", "is not supported with KMS v2".into(), "remove it");
    }
    if kms.api_version == "v1" {
        add(
            "apiVersion",
            "apiVersion is v1, or not set, which means v1; Kubernetes turns it off by default".into(),
            "set apiVersion: v2 at the kms provider",
        );
    } else if kms.api_version != "v2" {
        add("apiVersion", "is neither v1 nor v2".into(), "set apiVersion: v2 at the kms provider");
    }
}

fn keys(keys: &[Key], lengths: &[usize], place: &str, found: &mut Found) {
    if keys.is_empty() {
        found.add(place, "is empty", "name a key");
    }
    for (at, key) in keys.iter().enumerate() {
        let place = format!("{place}[{at}]");
        if key.name.is_empty() {
            found.add(&place, "has no name", "give the key a name");
        }
        match key.length {
            None => found.add(&place, "has a secret that is not base64", "encode the key in base64"),
            Some(0) => found.add(&place, "has no secret", "set the secret: the key in base64"),
            Some(length) if !lengths.contains(&length) => {
                found.add(&place, format!("has a secret of {length} bytes"), "use a key of 32 bytes");
            }
            Some(_) => {}
        }
    }
}
