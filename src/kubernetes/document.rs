//! A YAML or JSON text as kube-apiserver's loader sees it: the first document, as JSON values.
//!
//! The loader reads YAML 1.1: a plain `yes` or `on` is a boolean, `0b1` is a number. It refuses a key that is given
//! twice. Must not show any text of the file: it may be a key.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

use super::scalar::{Resolved, plain};

/// Most values in a document, with those that aliases repeat.
const MAX_VALUES: usize = 100_000;
/// Deepest nesting.
const MAX_DEPTH: usize = 64;

/// A value with the line where it begins; 0 where that is not known.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    /// A boolean or a number: the loader has no use for either, so only the type counts.
    Other,
    Text(Zeroizing<String>),
    List(Vec<Node>),
    /// Each key is there once.
    Map(Vec<(String, Node)>),
}

/// Why a text is no document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    pub line: usize,
    pub why: &'static str,
}

impl Invalid {
    fn at(line: usize, why: &'static str) -> Self {
        Self { line, why }
    }
}

/// Reads the first document of a text. A text that begins with a brace is JSON, as for the loader.
pub(super) fn parse(text: &str) -> Result<Node, Invalid> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| Invalid::at(error.line(), "is not valid JSON"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(at) = text.find(|c| !is_allowed(c)) {
        let line = text.get(..at).map_or(0, |before| before.lines().count().max(1));
        return Err(Invalid::at(line, "has a control character"));
    }
    if let Some(at) = text.lines().take_while(|line| !line.starts_with("---")).position(is_other_version) {
        return Err(Invalid::at(at + 1, "is YAML of another version than 1.1"));
    }
    let text = &with_blanks(text);
    let mut reader =
        Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), values: 0, line: 0 };
    loop {
        match reader.next_event()? {
            (Event::StreamEnd, span) => return Ok(Node { line: span.start.line(), value: Value::Null }),
            (Event::DocumentStart(_), _) => {
                let (event, span) = reader.next_event()?;
                return reader.node(event, span, 0);
            }
            _ => {}
        }
    }
}

/// A directive that names another version of YAML, which the loader refuses.
fn is_other_version(line: &str) -> bool {
    line.strip_prefix("%YAML").is_some_and(|rest| rest.split_whitespace().next() != Some("1.1"))
}

/// The text with a blank instead of a tab between a field's name and its value: our parser refuses the tab.
fn with_blanks(text: &str) -> Zeroizing<String> {
    if !text.contains(":\t") {
        return Zeroizing::new(text.to_owned());
    }
    let mut changed = Zeroizing::new(String::with_capacity(text.len()));
    for line in text.split_inclusive('\n') {
        let name = line.trim_start_matches([' ', '-']);
        let end = name.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(name.len());
        match name.get(end..).and_then(|rest| rest.strip_prefix(":\t")) {
            Some(value) if end > 0 => {
                let before = line.len() - value.len() - 1;
                changed.push_str(line.get(..before).unwrap_or_default());
                changed.push(' ');
                changed.push_str(value.trim_start_matches(['\t', ' ']));
            }
            _ => changed.push_str(line),
        }
    }
    changed
}

/// The characters that the loader's YAML reader accepts.
fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..)
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    values: usize,
    line: usize,
}

impl<'a> Reader<'a> {
    fn next_event(&mut self) -> Result<(Event<'a>, Span), Invalid> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok((event, span))
            }
            Some(Err(error)) => Err(Invalid::at(error.marker().line(), "is not valid YAML")),
            None => Err(Invalid::at(self.line, "is not valid YAML")),
        }
    }

    /// The node that begins with this event.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Invalid> {
        let line = span.start.line();
        self.count(1, line)?;
        if depth > MAX_DEPTH {
            return Err(Invalid::at(line, "is nested too deeply"));
        }
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, scalar(text.into_owned(), style, tag.as_deref()).ok_or(Invalid::at(line, NO_JSON))?)
            }
            Event::SequenceStart(anchor, _) => {
                let mut list = Vec::new();
                loop {
                    match self.next_event()? {
                        (Event::SequenceEnd, _) => break (anchor, Value::List(list)),
                        (event, span) => list.push(self.node(event, span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(anchor, _) => (anchor, Value::Map(self.entries(depth)?)),
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                let known = known.ok_or(Invalid::at(line, "has an alias of itself"))?;
                self.count(size(&known), line)?;
                return Ok(Node { line, value: known.value });
            }
            _ => return Err(Invalid::at(line, "is not valid YAML")),
        };
        let node = Node { line, value };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<(String, Node)>, Invalid> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.next_event()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(entries);
            }
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next_event()?;
            let value = self.node(event, span, depth + 1)?;
            if is_merge {
                merge(&mut entries, value)?;
                continue;
            }
            match key.value {
                Value::Text(key_text) => add(&mut entries, key_text.to_string(), value)?,
                // The loader makes a text of it, which is no field that it knows.
                Value::Other => add(&mut entries, format!("(line {})", key.line), value)?,
                _ => return Err(Invalid::at(key.line, NO_JSON)),
            }
        }
    }

    fn count(&mut self, more: usize, line: usize) -> Result<(), Invalid> {
        self.values = self.values.saturating_add(more);
        if self.values > MAX_VALUES { Err(Invalid::at(line, "has too many values")) } else { Ok(()) }
    }
}

const NO_JSON: &str = "has a value that JSON does not have";
const TWICE: &str = "gives a field twice";

fn add(entries: &mut Vec<(String, Node)>, key: String, value: Node) -> Result<(), Invalid> {
    if entries.iter().any(|(known, _)| *known == key) {
        return Err(Invalid::at(value.line, TWICE));
    }
    entries.push((key, value));
    Ok(())
}

/// `<<`: the entries of another map, or of several.
fn merge(entries: &mut Vec<(String, Node)>, node: Node) -> Result<(), Invalid> {
    match node.value {
        Value::Map(merged) => merged.into_iter().try_for_each(|(key, value)| add(entries, key, value)),
        Value::List(maps) if maps.iter().all(|map| matches!(map.value, Value::Map(_))) => {
            maps.into_iter().try_for_each(|map| merge(entries, map))
        }
        _ => Err(Invalid::at(node.line, "merges what is not a map")),
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(list) => list.iter().map(size).sum::<usize>(),
        Value::Map(entries) => entries.iter().map(|(_, value)| size(value)).sum(),
        _ => 0,
    }
}

/// The type of a scalar; `None` for one that JSON does not have.
fn scalar(text: String, style: ScalarStyle, tag: Option<&Tag>) -> Option<Value> {
    let text = Zeroizing::new(text);
    let core = tag.and_then(|tag| tag.is_yaml_core_schema().then_some(tag.suffix.as_str()));
    if matches!(core, Some("str"))
        || (tag.is_none() && style != ScalarStyle::Plain)
        || (tag.is_some() && core.is_none())
    {
        return Some(Value::Text(text));
    }
    let resolved = plain(&text)?;
    match (core, resolved) {
        (None, Resolved::Text) => Some(Value::Text(text)),
        (None | Some("null"), Resolved::Null) => Some(Value::Null),
        (None | Some("bool"), Resolved::Bool) => Some(Value::Other),
        (None | Some("int" | "float"), Resolved::Int) | (None | Some("float"), Resolved::Float) => {
            Some(Value::Other)
        }
        _ => None,
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Json)
    }
}

struct Json;

impl<'de> Visitor<'de> for Json {
    type Value = Node;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node { line: 0, value: Value::Null })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node { line: 0, value: Value::Other })
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node { line: 0, value: Value::Other })
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node { line: 0, value: Value::Other })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node { line: 0, value: Value::Other })
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node { line: 0, value: Value::Text(Zeroizing::new(text.to_owned())) })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node { line: 0, value: Value::List(list) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Node>()? {
            add(&mut entries, key, value).map_err(|invalid| de::Error::custom(invalid.why))?;
        }
        Ok(Node { line: 0, value: Value::Map(entries) })
    }
}
