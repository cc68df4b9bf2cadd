//! `config`: shows the merged configuration with the origin of each value, or the list of keys.

use figment::value::Value;

use super::exit::{Exit, Failure};
use super::flags::ConfigFlags;
use super::report::{self, Output};
use crate::config::endpoint::without_userinfo;
use crate::config::schema::{self, Key};
use crate::config::{Merged, Settings};

/// Show the merged configuration and the origin of each value
#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    /// Instead, list every key with its type, default, flag and variable
    #[arg(long)]
    keys: bool,
    /// Format of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    flags: ConfigFlags,
}

pub(super) fn run(args: &ConfigArgs) -> Result<(), Failure> {
    if args.keys {
        return report::line(list(args.output).trim_end());
    }
    let merged = args.flags.merge()?;
    let text = match args.output {
        Output::Text => text(&merged),
        Output::Json => json(&merged),
    };
    report::line(text.trim_end())?;
    // Shown before it is validated: the values explain the problems.
    Settings::from_merged(&merged).map(drop).map_err(|error| Failure::new(Exit::Config, error))
}

fn list(output: Output) -> String {
    match output {
        Output::Json => {
            let keys: Vec<_> = schema::KEYS
                .iter()
                .map(|key| {
                    serde_json::json!({
                        "key": key.path, "type": key.kind.expected(), "default": key.shown_default().unwrap_or_default(),
                        "flag": format!("--{}", key.flag()), "variable": key.variable(), "help": key.help,
                    })
                })
                .collect();
            serde_json::to_string_pretty(&keys).unwrap_or_default()
        }
        Output::Text => schema::KEYS.iter().map(describe).collect(),
    }
}

fn describe(key: &Key) -> String {
    let default = key.shown_default().unwrap_or("none");
    format!(
        "{}\n    {}\n    {}; default: {default}\n    --{}, {}\n",
        key.path,
        key.help,
        key.kind.expected(),
        key.flag(),
        key.variable()
    )
}

/// In the form of a configuration file. No value is a secret: keys hold only the paths of secrets.
fn text(merged: &Merged) -> String {
    let mut text = String::new();
    let mut section = "";
    for key in schema::KEYS {
        let (table, name) = key.table_and_name();
        if table != section {
            text.push_str(&format!("{}[{table}]\n", if section.is_empty() { "" } else { "\n" }));
            section = table;
        }
        match (merged.value(key.path), key.shown_default()) {
            (Some(value), _) => {
                let origin = merged.origin(key.path);
                let origin = origin.unwrap_or_else(|| "unknown".into());
                text.push_str(&format!("{name} = {}  # {origin}\n", toml_value(name, &value)));
            }
            (None, None) => text.push_str(&format!("# {name} is not set\n")),
            (None, Some(default)) => text.push_str(&format!("# {name}: by default {default}\n")),
        }
    }
    if let Some(Value::Array(_, entries)) = merged.value(schema::DECRYPT_ONLY) {
        for entry in &entries {
            text.push_str(&format!(
                "\n[[decrypt_only]]  # {}\n",
                merged.origin(schema::DECRYPT_ONLY).unwrap_or_default()
            ));
            tables(entry, "decrypt_only", &mut text);
        }
    }
    text
}

fn tables(value: &Value, path: &str, text: &mut String) {
    let Some(dict) = value.as_dict() else { return };
    for (name, value) in dict.iter().filter(|(_, value)| value.as_dict().is_none()) {
        text.push_str(&format!("{name} = {}\n", toml_value(name, value)));
    }
    for (name, value) in dict.iter().filter(|(_, value)| value.as_dict().is_some()) {
        let path = format!("{path}.{name}");
        text.push_str(&format!("[{path}]\n"));
        tables(value, &path, text);
    }
}

fn toml_value(name: &str, value: &Value) -> String {
    toml::Value::try_from(redacted(name, value)).map(|value| value.to_string()).unwrap_or_default()
}

/// The settings that hold addresses, by their names in every table.
const ADDRESSES: [&str; 3] = ["addresses", "proxy", "proxy_except"];

/// The value of a setting to show: without the password that an address may hold by mistake, also one without a scheme.
/// In other settings, such as a user's name, `@` is an ordinary character.
fn redacted(name: &str, value: &Value) -> Value {
    match value {
        Value::String(_, text) if ADDRESSES.contains(&name) || text.contains("://") => {
            Value::from(without_userinfo(text))
        }
        Value::Array(_, items) => {
            Value::from(items.iter().map(|item| redacted(name, item)).collect::<Vec<_>>())
        }
        Value::Dict(_, dict) => {
            let shown = dict.iter().map(|(name, value)| (name.clone(), redacted(name, value)));
            Value::from(shown.collect::<figment::value::Dict>())
        }
        other => other.clone(),
    }
}

/// The values with their origins, as JSON.
pub(super) fn json(merged: &Merged) -> String {
    let values: serde_json::Map<_, _> = schema::KEYS
        .iter()
        .filter_map(|key| {
            let value =
                serde_json::to_value(redacted(key.table_and_name().1, &merged.value(key.path)?)).ok()?;
            Some((
                key.path.to_owned(),
                serde_json::json!({ "value": value, "origin": merged.origin(key.path) }),
            ))
        })
        .chain(merged.value(schema::DECRYPT_ONLY).and_then(|value| {
            let value = serde_json::to_value(redacted(schema::DECRYPT_ONLY, &value)).ok()?;
            let origin = merged.origin(schema::DECRYPT_ONLY);
            Some((schema::DECRYPT_ONLY.to_owned(), serde_json::json!({ "value": value, "origin": origin })))
        }))
        .collect();
    serde_json::to_string_pretty(&values).unwrap_or_default()
}
