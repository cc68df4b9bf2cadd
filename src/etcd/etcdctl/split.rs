//! Splits the output of etcdctl without `-w json`. etcdctl puts a newline between values, and values contain newlines
//! themselves.
//!
//! An object begins after a newline if the next bytes are a known beginning of a value, or a line with a key and such
//! a beginning. A value with another beginning cannot be distinguished from the end of the value before it.

use std::io::Read;

use super::form::{CHUNK, Form, HEAD, ReadError};
use crate::etcd::value::{ENCRYPTED, PROTOBUF};
use crate::etcd::{MAX_KEY, MAX_VALUE, Sink};

/// How a plain JSON object of the API server begins. `{` alone occurs in too many values.
const JSON: &[&[u8]] = &[b"{\"kind\":\"", b"{\"apiVersion\":\""];

/// Whether a value begins here.
pub(super) fn begins_value(bytes: &[u8]) -> bool {
    bytes.starts_with(ENCRYPTED)
        || bytes.starts_with(PROTOBUF)
        || JSON.iter().any(|json| bytes.starts_with(json))
}

/// Splits a stream at the newlines after which an object begins.
pub(super) struct Split<R> {
    input: R,
    buffer: Vec<u8>,
    ended: bool,
    form: Form,
}

impl<R: Read> Split<R> {
    pub(super) fn new(input: R, form: Form) -> Self {
        Self { input, buffer: Vec::new(), ended: false, form }
    }

    /// Reads to the end, and passes each object to `sink`.
    pub(super) fn run(mut self, sink: &mut dyn Sink) -> Result<(), ReadError> {
        let (mut objects, mut searched) = (0, 0);
        let most = MAX_VALUE + MAX_KEY;
        while !self.fill(self.ahead())? {}
        if self.form == Form::Simple
            && key_line(&self.buffer).is_some_and(|(_, value)| value.starts_with(b"\n"))
        {
            return Err(ReadError::KeysOnly);
        }
        loop {
            let rest = self.buffer.get(searched..).unwrap_or_default();
            let newline = rest.iter().position(|byte| *byte == b'\n').map(|at| searched + at);
            let next = newline.map_or(self.buffer.len(), |at| at + 1);
            if next > most {
                return Err(ReadError::TooLarge { object: self.name(objects) });
            }
            if newline.is_none() && self.ended {
                break;
            }
            // To see whether an object begins here, the buffer needs enough bytes, or the end of the input.
            let ahead = if newline.is_some() { self.ahead() } else { 1 };
            if !self.fill(next + ahead)? {
                continue;
            }
            searched = next;
            let (object, rest) = self.buffer.split_at_checked(next).unwrap_or_default();
            if newline.is_some() && self.begins(rest) {
                emit(self.form, object, sink)?;
                objects += 1;
                self.buffer.drain(..next);
                searched = 0;
            }
        }
        match self.buffer.as_slice() {
            [] => Ok(()),
            last => emit(self.form, last, sink).map_err(|_| ReadError::Truncated { objects }),
        }
    }

    /// How many bytes are enough to see whether an object begins.
    fn ahead(&self) -> usize {
        if self.form == Form::Simple { MAX_KEY + HEAD } else { HEAD }
    }

    /// Reads until the buffer holds `length` bytes or the input ends. False when something was read: then the buffer
    /// must be checked again.
    fn fill(&mut self, length: usize) -> Result<bool, ReadError> {
        if self.ended || self.buffer.len() >= length {
            return Ok(true);
        }
        let before = self.buffer.len();
        let chunk = CHUNK.max(length - before) as u64;
        let read = self.input.by_ref().take(chunk).read_to_end(&mut self.buffer).map_err(ReadError::Io)?;
        self.ended = (read as u64) < chunk;
        Ok(false)
    }

    fn begins(&self, bytes: &[u8]) -> bool {
        match self.form {
            Form::Simple => key_line(bytes).is_some_and(|(_, value)| begins_value(value)),
            _ => begins_value(bytes),
        }
    }

    /// The current object, for an error: its key, or its number.
    fn name(&self, before: u64) -> String {
        let key = key_line(&self.buffer).filter(|_| self.form == Form::Simple);
        key.map_or_else(
            || format!("value {}", before + 1),
            |(key, _)| String::from_utf8_lossy(key).into_owned(),
        )
    }
}

/// The key in the first line, and the bytes after that line.
fn key_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().take(MAX_KEY).position(|byte| !byte.is_ascii_graphic())?;
    let (key, rest) = bytes.split_at_checked(end)?;
    (key.starts_with(b"/")).then_some((key, rest.strip_prefix(b"\n")?))
}

/// Passes on the bytes between two beginnings, without the newline at their end.
fn emit(form: Form, object: &[u8], sink: &mut dyn Sink) -> Result<(), ReadError> {
    let object = object.strip_suffix(b"\n").unwrap_or(object);
    match form {
        Form::Simple => {
            let (key, value) = key_line(object).ok_or(ReadError::NoForm)?;
            sink.object(Some(key), value);
        }
        _ => sink.object(None, object),
    }
    Ok(())
}
