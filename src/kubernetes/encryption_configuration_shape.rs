//! The fields of an EncryptionConfiguration: reads them, and refuses what is not there or has another type.
//!
//! As the loader does it: `null` is the same as a field that is not given.

use base64::Engine as _;
use zeroize::Zeroizing;

use super::document::{Node, Value};
use super::encryption_configuration::{DEFAULT_TIMEOUT, Key, Problem, timeout};

/// What one element of `resources` holds, before Kubernetes' rules.
#[derive(Debug, Default)]
pub(super) struct RawRule {
    pub resources: Vec<String>,
    pub providers: Vec<RawProvider>,
}

/// What one element of `providers` holds. A provider has one of these fields, if the file is right.
#[derive(Debug, Default)]
pub(super) struct RawProvider {
    pub kms: Option<RawKms>,
    pub aesgcm: Option<Vec<Key>>,
    pub aescbc: Option<Vec<Key>>,
    pub secretbox: Option<Vec<Key>>,
    pub identity: bool,
}

#[derive(Debug)]
pub(super) struct RawKms {
    pub api_version: String,
    pub name: String,
    pub endpoint: String,
    /// `None` when it is not longer than zero.
    pub timeout: Option<std::time::Duration>,
    pub has_cache_size: bool,
}

const FIELDS: &str = "see kms-plugin render encryption-config for the form";

/// The rules of a document, in order.
///
/// # Errors
/// The first field that is unknown, or has a value of another type.
pub(super) fn rules(document: &Node) -> Result<Vec<RawRule>, Problem> {
    let mut rules = Vec::new();
    for (field, node) in fields(document, "")? {
        match field {
            "apiVersion" | "kind" => {}
            "resources" => {
                rules =
                    list(node, "resources")?.map(|(at, node)| rule(node, &at)).collect::<Result<_, _>>()?
            }
            _ => return Err(unknown(node, "")),
        }
    }
    Ok(rules)
}

fn rule(node: &Node, place: &str) -> Result<RawRule, Problem> {
    let mut rule = RawRule::default();
    for (field, node) in fields(node, place)? {
        let at = format!("{place}.{field}");
        match field {
            "resources" => {
                rule.resources =
                    list(node, &at)?.map(|(at, node)| text(node, &at)).collect::<Result<_, _>>()?;
            }
            "providers" => {
                rule.providers =
                    list(node, &at)?.map(|(at, node)| provider(node, &at)).collect::<Result<_, _>>()?;
            }
            _ => return Err(unknown(node, place)),
        }
    }
    Ok(rule)
}

fn provider(node: &Node, place: &str) -> Result<RawProvider, Problem> {
    let mut provider = RawProvider::default();
    for (field, node) in fields(node, place)? {
        let at = format!("{place}.{field}");
        let is_null = matches!(node.value, Value::Null);
        match field {
            "kms" | "aesgcm" | "aescbc" | "secretbox" | "identity" if is_null => {}
            "kms" => provider.kms = Some(kms(node, &at)?),
            "aesgcm" => provider.aesgcm = Some(keys(node, &at)?),
            "aescbc" => provider.aescbc = Some(keys(node, &at)?),
            "secretbox" => provider.secretbox = Some(keys(node, &at)?),
            "identity" => {
                if let Some((_, node)) = fields(node, &at)?.next() {
                    return Err(unknown(node, &at));
                }
                provider.identity = true;
            }
            _ => return Err(unknown(node, place)),
        }
    }
    Ok(provider)
}

fn kms(node: &Node, place: &str) -> Result<RawKms, Problem> {
    let mut kms = RawKms {
        api_version: String::new(),
        name: String::new(),
        endpoint: String::new(),
        timeout: Some(DEFAULT_TIMEOUT),
        has_cache_size: false,
    };
    for (field, node) in fields(node, place)? {
        let at = format!("{place}.{field}");
        match field {
            "apiVersion" => kms.api_version = text(node, &at)?,
            "name" => kms.name = text(node, &at)?,
            "endpoint" => kms.endpoint = text(node, &at)?,
            "timeout" if matches!(node.value, Value::Null) => {}
            "timeout" => kms.timeout = timeout(&text(node, &at)?),
            // v2 refuses every size, so its type does not matter.
            "cachesize" => kms.has_cache_size = !matches!(node.value, Value::Null),
            _ => return Err(unknown(node, place)),
        }
    }
    if kms.api_version.is_empty() {
        kms.api_version = "v1".into();
    }
    Ok(kms)
}

fn keys(node: &Node, place: &str) -> Result<Vec<Key>, Problem> {
    let mut found = Vec::new();
    for (field, node) in fields(node, place)? {
        match field {
            "keys" => {
                found = list(node, &format!("{place}.keys"))?
                    .map(|(at, node)| key(node, &at))
                    .collect::<Result<_, _>>()?
            }
            _ => return Err(unknown(node, place)),
        }
    }
    Ok(found)
}

fn key(node: &Node, place: &str) -> Result<Key, Problem> {
    let mut key = Key { name: String::new(), length: Some(0) };
    for (field, node) in fields(node, place)? {
        let at = format!("{place}.{field}");
        match field {
            "name" => key.name = text(node, &at)?,
            "secret" => key.length = length(&Zeroizing::new(text(node, &at)?)),
            _ => return Err(unknown(node, place)),
        }
    }
    Ok(key)
}

/// The length of a secret in base64. Go's decoder ignores line ends.
fn length(secret: &str) -> Option<usize> {
    let plain: Zeroizing<String> =
        Zeroizing::new(secret.chars().filter(|c| !matches!(c, '\r' | '\n')).collect());
    STANDARD_AS_GO.decode(plain.as_bytes()).map(Zeroizing::new).map(|bytes| bytes.len()).ok()
}

/// Go's standard encoding accepts bits after the end of the last byte.
const STANDARD_AS_GO: base64::engine::GeneralPurpose = base64::engine::GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    base64::engine::GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

fn fields<'a>(node: &'a Node, place: &str) -> Result<impl Iterator<Item = (&'a str, &'a Node)>, Problem> {
    let entries: &[(String, Node)] = match &node.value {
        Value::Map(entries) => entries,
        Value::Null => &[],
        _ => return Err(other_type(node, place, "a map")),
    };
    Ok(entries.iter().map(|(field, node)| (field.as_str(), node)))
}

fn list<'a>(node: &'a Node, place: &str) -> Result<impl Iterator<Item = (String, &'a Node)>, Problem> {
    let items: &[Node] = match &node.value {
        Value::List(items) => items,
        Value::Null => &[],
        _ => return Err(other_type(node, place, "a list")),
    };
    let place = place.to_owned();
    Ok(items.iter().enumerate().map(move |(at, node)| (format!("{place}[{at}]"), node)))
}

fn text(node: &Node, place: &str) -> Result<String, Problem> {
    match &node.value {
        Value::Text(text) => Ok(text.to_string()),
        Value::Null => Ok(String::new()),
        _ => Err(other_type(node, place, "a text")),
    }
}

fn other_type(node: &Node, place: &str, wanted: &'static str) -> Problem {
    let quotes = if wanted == "a text" { " (yes, on, and numbers need quotes)" } else { "" };
    Problem { place: place_of(place), what: format!("is not {wanted}{}{quotes}", line(node)), remedy: FIELDS }
}

/// Does not show the field's name: it may be a key that somebody has put into the wrong place.
fn unknown(node: &Node, place: &str) -> Problem {
    Problem {
        place: place_of(place),
        what: format!("has a field that Kubernetes does not know{}", line(node)),
        remedy: "correct the field's name: capitals count, and KMS v2's fields are apiVersion, name, endpoint and timeout",
    }
}

fn place_of(place: &str) -> String {
    if place.is_empty() { "the file".to_owned() } else { place.to_owned() }
}

fn line(node: &Node) -> String {
    if node.line == 0 { String::new() } else { format!(" (line {})", node.line) }
}
