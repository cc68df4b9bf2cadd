//! Reads objects from a stream, one at a time: the output of `etcdctl get`, in any form that can be recognised.
//!
//! `-w json` is exact. The other forms put a newline between values, which contain newlines themselves.

use std::io::{BufReader, Read};

use super::form::{CHUNK, Form, HEAD, ReadError};
use super::split::{Split, begins_value};
use crate::etcd::Sink;
use crate::etcd::range_response::{self, Gauge, Metered};

/// Reads `input` to its end, and passes each object to `sink`.
pub(crate) fn read(mut input: impl Read, sink: &mut dyn Sink) -> Result<Form, ReadError> {
    let mut head = Vec::with_capacity(HEAD);
    input.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(ReadError::Io)?;
    let text = head.trim_ascii_start();
    let form = match text {
        [] => return Err(ReadError::Empty),
        text if is_range(text) => Form::Json,
        [b'/', ..] if text.len() == head.len() => Form::Simple,
        _ if begins_value(&head) => Form::Values,
        _ => return Err(ReadError::NoForm),
    };
    let input = head.as_slice().chain(input);
    match form {
        Form::Json => documents(input, sink)?,
        Form::Simple | Form::Values => Split::new(input, form).run(sink)?,
    }
    Ok(form)
}

/// Whether the input begins like an answer to a range request.
fn is_range(text: &[u8]) -> bool {
    let Some(inside) = text.strip_prefix(b"{") else { return false };
    let inside = inside.trim_ascii_start();
    [b"\"header\"".as_slice(), b"\"kvs\"", b"\"count\""].iter().any(|field| inside.starts_with(field))
}

/// Reads several JSON documents: the output of several calls of etcdctl in one pipe.
fn documents(input: impl Read, sink: &mut dyn Sink) -> Result<(), ReadError> {
    let gauge = Gauge::default();
    let metered = Metered { input: BufReader::with_capacity(CHUNK, input), gauge: &gauge };
    let mut json = serde_json::Deserializer::from_reader(metered);
    let mut counted = Counted { sink, objects: 0, values: 0 };
    loop {
        match json.end() {
            Ok(()) => return Ok(()),
            Err(error) if error.is_io() => return Err(read_error(error, &gauge, counted.objects)),
            // Another document follows.
            Err(_) => {}
        }
        let range = range_response::read(&mut json, &gauge, &mut counted)
            .map_err(|error| read_error(error, &gauge, counted.objects))?;
        if range.more || range.count > range.objects {
            return Err(ReadError::Partial { objects: range.objects, count: range.count });
        }
        // The API server never stores an empty value.
        if counted.objects > 0 && counted.values == 0 {
            return Err(ReadError::KeysOnly);
        }
    }
}

/// The error without the parser's text, which quotes the input.
fn read_error(error: serde_json::Error, gauge: &Gauge, objects: u64) -> ReadError {
    if gauge.exceeded() {
        let key = gauge.key();
        let object = if key.is_empty() { format!("object {}", objects + 1) } else { key };
        return ReadError::TooLarge { object };
    }
    match error.classify() {
        serde_json::error::Category::Eof => ReadError::Truncated { objects },
        serde_json::error::Category::Io => ReadError::Io(error.into()),
        _ => ReadError::Damaged { line: error.line(), column: error.column() },
    }
}

/// Counts the objects that it passes on.
struct Counted<'a> {
    sink: &'a mut dyn Sink,
    objects: u64,
    /// Objects whose value is not empty.
    values: u64,
}

impl Sink for Counted<'_> {
    fn object(&mut self, key: Option<&[u8]>, value: &[u8]) {
        self.objects += 1;
        self.values += u64::from(!value.is_empty());
        self.sink.object(key, value);
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use std::io;

    use super::*;
    use crate::etcd::{MAX_KEY, MAX_VALUE};

    #[derive(Default)]
    struct Collected(Vec<Object>);

    type Object = (Option<Vec<u8>>, Vec<u8>);

    impl Sink for Collected {
        fn object(&mut self, key: Option<&[u8]>, value: &[u8]) {
            self.0.push((key.map(<[u8]>::to_vec), value.to_vec()));
        }
    }

    /// Gives one byte at a time, as a slow pipe may.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(1);
            self.0.read(&mut buffer[..most])
        }
    }

    fn all(input: &[u8]) -> Result<(Form, Vec<Object>), ReadError> {
        let (mut fast, mut slow) = (Collected::default(), Collected::default());
        let form = read(input, &mut fast);
        let again = read(Slow(input), &mut slow);
        assert_eq!(format!("{form:?}"), format!("{again:?}"));
        assert_eq!(fast.0, slow.0);
        Ok((form?, fast.0))
    }

    fn json(objects: &[(&[u8], &[u8])]) -> Vec<u8> {
        let objects: Vec<_> = objects
            .iter()
            .map(|(key, value)| serde_json::json!({ "key": STANDARD.encode(key), "version": 1, "value": STANDARD.encode(value) }))
            .collect();
        serde_json::to_vec(
            &serde_json::json!({ "header": { "revision": 7 }, "count": objects.len(), "kvs": objects }),
        )
        .unwrap()
    }

    #[test]
    fn documents_in_a_row() {
        let first = json(&[(b"/registry/secrets/a/b", b"k8s\0\nx\n"), (b"/registry/secrets/a/c", b"")]);
        let input = [first.as_slice(), b"\n", b"{\"header\":{\"revision\":8}}\n", &first].concat();
        let (form, objects) = all(&input).unwrap();
        assert_eq!((form, objects.len()), (Form::Json, 4));
        assert_eq!(objects[0], (Some(b"/registry/secrets/a/b".to_vec()), b"k8s\0\nx\n".to_vec()));
        assert_eq!(objects[3].1, b"");
    }

    #[test]
    fn a_document_that_is_cut_or_damaged() {
        let whole = json(&[(b"/registry/secrets/a/b", b"k8s\0x"), (b"/registry/secrets/a/c", b"k8s\0y")]);
        for length in 10..whole.len() {
            assert!(matches!(all(&whole[..length]), Err(ReadError::Truncated { .. })), "{length}");
        }
        for input in [
            r#"{"kvs":"hunter2"}"#,
            r#"{"kvs":[{"key":"L2E=","value":"hunter2!"}]}"#,
            r#"{"kvs":[{"value":"L2E="}]}"#,
            r#"{"kvs":[]} trailing"#,
            r#"{"header": 5}"#,
        ] {
            let error = all(input.as_bytes()).unwrap_err();
            assert!(
                matches!(error, ReadError::Damaged { .. }) && !error.to_string().contains("hunter"),
                "{error}"
            );
        }
    }

    #[test]
    fn values_alone_and_with_keys() {
        let values: &[&[u8]] =
            &[b"k8s:enc:kms:v2:p:\n\n{\n/a\n", b"k8s\0\nk8s", b"{\"kind\":\"Secret\"}\n", b"k8s:enc:x"];
        let alone = values.concat_with(b"\n");
        let (form, objects) = all(&alone).unwrap();
        assert_eq!(form, Form::Values);
        assert_eq!(objects.into_iter().map(|(_, value)| value).collect::<Vec<_>>(), values);

        let simple: Vec<u8> = values
            .iter()
            .enumerate()
            .flat_map(|(number, value)| {
                [format!("/registry/secrets/a/{number}\n").as_bytes(), value, b"\n"].concat()
            })
            .collect();
        let (form, objects) = all(&simple).unwrap();
        assert_eq!(form, Form::Simple);
        for (number, (key, value)) in objects.iter().enumerate() {
            assert_eq!(key.as_deref(), Some(format!("/registry/secrets/a/{number}").as_bytes()));
            assert_eq!(value, values[number]);
        }
        assert_eq!(objects.len(), values.len());
    }

    #[test]
    fn input_without_stored_values_is_refused() {
        assert!(matches!(all(b""), Err(ReadError::Empty)));
        assert!(matches!(all(b" \n"), Err(ReadError::Empty)));
        for input in [
            "hello",
            "{\n  \"apiVersion\": \"v1\",\n  \"items\": []",
            "{}",
            "\n/registry",
            "\u{1f}\u{8b}gzip",
        ] {
            assert!(matches!(all(input.as_bytes()), Err(ReadError::NoForm)), "{input}");
        }
        assert!(matches!(all(b"/registry/secrets/a/b"), Err(ReadError::Truncated { objects: 0 })));
        // etcdctl get --keys-only, in both forms.
        let long = format!("/registry/secrets/{}\n\n/registry/secrets/a/c\n\n", "b".repeat(100));
        assert!(matches!(all(long.as_bytes()), Err(ReadError::KeysOnly)));
        let keys = br#"{"header":{},"kvs":[{"key":"L2E="},{"key":"L2I="}],"count":2}"#;
        assert!(matches!(all(keys), Err(ReadError::KeysOnly)));
    }

    #[test]
    fn an_object_that_is_too_large_is_named() {
        let large = vec![b'x'; MAX_VALUE + MAX_KEY + 1];
        let error = |input: &[u8]| read(input, &mut Collected::default()).unwrap_err().to_string();
        let document = json(&[
            (b"/registry/secrets/a/b", b"k8s\0"),
            (b"/registry/secrets/a/large", &[large.as_slice(); 2].concat()),
        ]);
        // serde_json sorts the fields: here the value comes after the key, as etcdctl writes them.
        assert!(
            error(&document).starts_with("/registry/secrets/a/large is larger than 4 MiB"),
            "{}",
            error(&document)
        );
        let simple = [b"/registry/secrets/a/large\nk8s\0".as_slice(), &large].concat();
        assert!(error(&simple).starts_with("/registry/secrets/a/large is larger"), "{}", error(&simple));
        let values = [b"k8s\0a\nk8s\0".as_slice(), &large].concat();
        assert!(error(&values).starts_with("value 2 is larger"), "{}", error(&values));
    }

    trait ConcatWith {
        fn concat_with(&self, separator: &[u8]) -> Vec<u8>;
    }

    impl ConcatWith for &[&[u8]] {
        fn concat_with(&self, separator: &[u8]) -> Vec<u8> {
            self.iter().flat_map(|part| [*part, separator].concat()).collect()
        }
    }

    proptest! {
        #[test]
        fn any_input_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0usize..6) {
            let heads: [&[u8]; 6] = [b"", b"{\"kvs\":[", b"{\"header\":{}", b"/registry/a/b\nk8s\0", b"k8s:enc:", b"/"];
            let _read = all(&[heads[kind], &bytes].concat());
        }

        #[test]
        fn json_is_exact(objects in proptest::collection::vec(("/[a-z/]{1,20}", proptest::collection::vec(any::<u8>(), 1..50)), 0..8)) {
            let pairs: Vec<(&[u8], &[u8])> = objects.iter().map(|(key, value)| (key.as_bytes(), value.as_slice())).collect();
            let (form, read) = all(&json(&pairs)).unwrap();
            prop_assert_eq!(form, Form::Json);
            let expected: Vec<_> = objects.iter().map(|(key, value)| (Some(key.clone().into_bytes()), value.clone())).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
