//! Parts of answers that several calls share, and the encoding of names in paths.

use serde::Deserialize;

/// The metadata of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ListMeta {
    pub resource_version: String,
    #[serde(rename = "continue")]
    pub next: String,
    pub remaining_item_count: Option<u64>,
}

/// The metadata of an object, as far as it is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Meta {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub resource_version: String,
}

/// An object of which only the metadata is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Partial {
    pub metadata: Meta,
}

/// A name as a segment of a path, or as a value in a query.
pub(super) fn encoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte))
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::encoded;

    #[test]
    fn names_of_every_kind_are_one_segment() {
        assert_eq!(encoded("system:node-1"), "system%3Anode-1");
        assert_eq!(encoded("sha256~Zm9v_-."), "sha256~Zm9v_-.");
        assert_eq!(encoded("a/../b?c=d&e%ü"), "a%2F..%2Fb%3Fc%3Dd%26e%25%C3%BC");
    }
}
