//! Reads the answer to a range request as JSON, object by object: etcdctl's `-w json` and the gateway's answers.
//!
//! The two differ in one point: the gateway writes 64-bit numbers as strings. Errors never contain a value.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{MAX_KEY, MAX_VALUE, Sink};

/// Most bytes of JSON for one object: a value and a key in base64, and the numbers beside them.
const MAX_ELEMENT: usize = (MAX_VALUE + MAX_KEY) / 3 * 4 + 4096;

/// The answer without its objects.
#[derive(Debug, Default)]
pub(super) struct Range {
    pub revision: Option<u64>,
    pub cluster_id: Option<u64>,
    /// How many objects the whole range has.
    pub count: u64,
    pub more: bool,
    /// How many objects were in this answer.
    pub objects: u64,
    pub last_key: Vec<u8>,
    recognised: bool,
}

/// How much of the current object was read, and its key.
#[derive(Default)]
pub(super) struct Gauge {
    used: Cell<usize>,
    key: RefCell<String>,
}

impl Gauge {
    /// The key of the object that was being read.
    pub(super) fn key(&self) -> String {
        self.key.borrow().clone()
    }

    /// Whether the current object is too large.
    pub(super) fn exceeded(&self) -> bool {
        self.used.get() > MAX_ELEMENT
    }

    fn next_object(&self) {
        self.used.set(0);
        self.key.borrow_mut().clear();
    }
}

/// Ends the input where one object is too large: otherwise the parser would collect all of it in memory.
pub(super) struct Metered<'a, R> {
    pub input: R,
    pub gauge: &'a Gauge,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.gauge.used.set(self.gauge.used.get().saturating_add(read));
        if self.gauge.exceeded() { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(read) }
    }
}

/// Reads one document, and passes each object to `sink` as soon as it is read.
pub(super) fn read<'de, R: serde_json::de::Read<'de>>(
    document: &mut serde_json::Deserializer<R>,
    gauge: &Gauge,
    sink: &mut dyn Sink,
) -> serde_json::Result<Range> {
    gauge.next_object();
    let range = Document { gauge, sink }.deserialize(document)?;
    match range.recognised {
        true => Ok(range),
        false => Err(serde_json::Error::custom("not an answer to a range request")),
    }
}

/// A number, or a number in a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u64),
    Text(String),
}

impl Number {
    fn get(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Text(text) => text.parse().ok(),
        }
    }
}

#[derive(Deserialize)]
struct Header {
    revision: Option<Number>,
    cluster_id: Option<Number>,
}

struct Document<'a> {
    gauge: &'a Gauge,
    sink: &'a mut dyn Sink,
}

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = Range;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Range, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = Range;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer to a range request")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Range, A::Error> {
        let mut range = Range::default();
        while let Some(field) = map.next_key::<String>()? {
            match field.as_str() {
                "header" => {
                    let header: Header = map.next_value()?;
                    range.revision = header.revision.and_then(Number::get);
                    range.cluster_id = header.cluster_id.and_then(Number::get);
                    range.recognised = true;
                }
                "kvs" => {
                    let objects = Objects { gauge: self.gauge, sink: &mut *self.sink, range: &mut range };
                    map.next_value_seed(objects)?;
                    range.recognised = true;
                }
                "count" => range.count = map.next_value::<Number>()?.get().unwrap_or_default(),
                "more" => range.more = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(range)
    }
}

struct Objects<'a> {
    gauge: &'a Gauge,
    sink: &'a mut dyn Sink,
    range: &'a mut Range,
}

impl<'de> DeserializeSeed<'de> for Objects<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Objects<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        loop {
            self.gauge.next_object();
            let object = Object { key: &mut key, value: &mut value, gauge: self.gauge };
            if list.next_element_seed(object)?.is_none() {
                break;
            }
            self.range.objects += 1;
            self.sink.object(Some(&key), &value);
        }
        self.range.last_key = key;
        Ok(())
    }
}

/// One object, read into buffers that are reused.
struct Object<'a> {
    key: &'a mut Vec<u8>,
    value: &'a mut Vec<u8>,
    gauge: &'a Gauge,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with key and value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.key.clear();
        // An empty value is not in the JSON.
        self.value.clear();
        while let Some(field) = map.next_key::<String>()? {
            match field.as_str() {
                "key" => {
                    map.next_value_seed(Base64(self.key))?;
                    *self.gauge.key.borrow_mut() = String::from_utf8_lossy(self.key).into_owned();
                }
                "value" => map.next_value_seed(Base64(self.value))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if self.key.is_empty() { Err(A::Error::custom("an object has no key")) } else { Ok(()) }
    }
}

struct Base64<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Base64<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Base64<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("base64")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.0.clear();
        STANDARD.decode_vec(text, self.0).map_err(|_| E::custom("not base64"))
    }
}
