//! Text that somebody else wrote: a server, a caller, a certificate, etcd. It passes through here where it enters, so
//! that no output can be changed by it: terminals, the journal, sd_notify, JSON, gRPC messages, metrics.
//!
//! Must not know what the text is about.

use serde::{Deserialize, Deserializer};

/// Longest text of somebody else, in characters.
pub(crate) const MAX_TEXT: usize = 256;
/// Most texts of a list.
const MAX_TEXTS: usize = 256;

/// Stands for a character that is not shown.
const REPLACEMENT: char = '\u{fffd}';

/// The format characters of Unicode 16 (general category Cf): marks that turn the direction of a text, that have no
/// width, or that are tags. With them the separators of lines and paragraphs (Zl, Zp).
const FORMAT: [(char, char); 21] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{180e}', '\u{180e}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{2029}'),
    ('\u{202a}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{fff9}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0001}', '\u{e0001}'),
    ('\u{e0020}', '\u{e007f}'),
];

/// Whether `c` may change how a text is read, and is not seen itself: a control or a format character.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control() || FORMAT.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// The character that is shown for `c`: a blank for white space such as a tab, and U+FFFD for other hidden characters.
fn shown(c: char) -> char {
    match is_hidden(c) {
        true if c.is_whitespace() => ' ',
        true => REPLACEMENT,
        false => c,
    }
}

/// A text of any length on one line, without hidden characters. For texts of ours that hold some of others.
pub(crate) fn visible(text: &str) -> String {
    text.chars().map(shown).collect()
}

/// A text of somebody else: on one line, without hidden characters, and with at most [`MAX_TEXT`] characters. A longer
/// one ends in "…". Its size does not matter: only the beginning is read.
pub(crate) fn text(text: &str) -> String {
    if text.len() <= MAX_TEXT && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return text.to_owned();
    }
    let mut chars = text.chars().map(shown);
    let mut short: String = chars.by_ref().take(MAX_TEXT).collect();
    if chars.next().is_some() {
        short.pop();
        short.push('…');
    }
    short
}

/// Deserializes a text of somebody else, for `#[serde(deserialize_with = "…")]`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    std::borrow::Cow::<'de, str>::deserialize(deserializer).map(|raw| text(&raw))
}

/// The same of a text that may be missing or `null`.
pub(crate) fn deserialize_option<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(|raw| text(&raw)))
}

/// The same of a list. Texts after the first 256 are dropped.
pub(crate) fn deserialize_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let list = Vec::<String>::deserialize(deserializer)?;
    Ok(list.iter().take(MAX_TEXTS).map(|raw| text(raw)).collect())
}

/// Makes every text of a JSON value [visible](visible), names of fields too. Their lengths stay: a list of key versions
/// is long.
pub(crate) fn visible_json(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::String(text) if text.contains(is_hidden) => *text = visible(text),
        Value::Array(values) => values.iter_mut().for_each(visible_json),
        Value::Object(fields) => {
            if fields.keys().any(|name| name.contains(is_hidden)) {
                *fields =
                    std::mem::take(fields).into_iter().map(|(name, value)| (visible(&name), value)).collect();
            }
            fields.values_mut().for_each(visible_json);
        }
        _ => {}
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Texts with which somebody may try to change an output: control characters, marks of direction, lines of
    /// sd_notify, of a log, of HTTP and of metrics, and much of them.
    pub(crate) fn hostile() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("\nSTOPPING=1\nWATCHDOG=trigger".to_owned()),
            Just("\u{1b}[2J\u{1b}]0;title\u{7}".to_owned()),
            Just("\r\n\r\nHTTP/1.1 200 OK".to_owned()),
            Just("\u{202e}txt\u{2066}\u{200b}\u{feff}\u{ad}".to_owned()),
            Just("\"} 1\nkms_plugin_ready 1".to_owned()),
            Just("\u{2028}\u{85}\0\u{9b}31m\u{e0041}".to_owned()),
            Just("%s{}\\\"'`$(reboot)".to_owned()),
            Just("é💥".repeat(200)),
            any::<String>(),
        ];
        proptest::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat())
    }

    /// What must hold of an output that has lines of its own.
    pub(crate) fn assert_harmless(output: &str) {
        let bad = output.chars().filter(|c| *c != '\n').find(|c| is_hidden(*c));
        assert_eq!(bad, None, "{output:?}");
        for line in output.lines() {
            assert!(!line.starts_with("STOPPING=") && !line.starts_with("WATCHDOG="), "{output:?}");
        }
    }

    #[test]
    fn hidden_characters_are_replaced() {
        assert_eq!(text("a\u{1b}[31mred\r\nline\0\u{7f}"), "a\u{fffd}[31mred  line\u{fffd}\u{fffd}");
        assert_eq!(text("\u{202e}abc\u{2066}\u{200b}"), "\u{fffd}abc\u{fffd}\u{fffd}");
        assert_eq!(visible("tab\tand é 💥"), "tab and é 💥");
        assert!(FORMAT.is_sorted() && FORMAT.iter().all(|(first, last)| first <= last));
    }

    #[test]
    fn a_long_text_is_shortened_without_being_read() {
        assert_eq!(text(&"é".repeat(MAX_TEXT)), "é".repeat(MAX_TEXT));
        let short = text(&"é".repeat(900_000));
        assert_eq!((short.chars().count(), short.ends_with('…')), (MAX_TEXT, true));
    }

    #[test]
    fn the_texts_of_json_are_made_visible() {
        let mut value = serde_json::json!({ "a\nb": ["\u{1b}x", 1, null], "c": { "d": "fine" } });
        visible_json(&mut value);
        assert_eq!(value, serde_json::json!({ "a b": ["\u{fffd}x", 1, null], "c": { "d": "fine" } }));
    }

    proptest! {
        #[test]
        fn no_text_has_a_second_line_or_hidden_characters(raw in hostile()) {
            for clean in [text(&raw), visible(&raw)] {
                prop_assert!(!clean.contains(is_hidden), "{clean:?}");
            }
            prop_assert!(text(&raw).chars().count() <= MAX_TEXT);
        }
    }
}
