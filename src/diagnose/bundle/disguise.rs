//! Finds known secrets in a text in whatever clothes they are: with escapes, in hexadecimal, in base64, split over lines,
//! and one of these inside another.
//!
//! Decodes the text and looks for the secrets in the result, instead of encoding the secrets in every way that somebody
//! may have. Must not know what replaces a secret.

use std::ops::Range;

use regex::bytes::{Regex, RegexBuilder};
use zeroize::Zeroizing;

/// How many encodings may be inside one another.
const MAX_DEPTH: usize = 3;
/// Shortest run of digits that is decoded: a secret has six bytes at least, which are eight characters of base64.
const MIN_RUN: usize = 8;
/// Largest size of the compiled pattern, in bytes. A private key has some dozens of lines.
const MAX_PATTERN: usize = 16 * 1024 * 1024;
/// How escapes begin: those of JSON and C, those of addresses, those of HTML.
const ESCAPES: [u8; 3] = [b'\\', b'%', b'&'];
/// Stands between the decoded parts of a text: no secret holds it.
const GAP: u8 = 0;

/// The secrets to look for.
pub(super) struct Finder {
    /// `None` without secrets.
    pattern: Option<Regex>,
}

impl Finder {
    /// # Errors
    /// When the pattern does not compile: a bug.
    pub(super) fn new(secrets: &[Zeroizing<String>]) -> Result<Self, regex::Error> {
        let escaped: Vec<_> = secrets.iter().map(|secret| Zeroizing::new(regex::escape(secret))).collect();
        let pattern = Zeroizing::new(escaped.iter().map(|text| text.as_str()).collect::<Vec<_>>().join("|"));
        let compiled = match pattern.is_empty() {
            true => None,
            false => Some(RegexBuilder::new(&pattern).size_limit(MAX_PATTERN).build()?),
        };
        Ok(Self { pattern: compiled })
    }

    /// Where secrets are in the text, as byte ranges: sorted, and none overlaps another.
    pub(super) fn find(&self, text: &str) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        if let Some(pattern) = &self.pattern {
            search(pattern, &View::of(text), MAX_DEPTH, &mut found);
        }
        found.sort_unstable_by_key(|range| (range.start, range.end));
        let mut merged: Vec<Range<usize>> = Vec::new();
        for range in found {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged
    }
}

/// Looks in the view, and in everything that can be decoded from it.
fn search(pattern: &Regex, view: &View, depth: usize, found: &mut Vec<Range<usize>>) {
    found.extend(pattern.find_iter(&view.bytes).filter_map(|hit| view.origin(hit.range())));
    let Some(depth) = depth.checked_sub(1) else { return };
    let unescaped = ESCAPES.into_iter().filter_map(|family| view.unescaped(family));
    let bits = [(4, 0), (4, 1), (6, 0), (6, 1), (6, 2), (6, 3)];
    let decoded = bits.into_iter().map(|(bits, skip)| view.decoded(bits, skip));
    for view in unescaped.chain(decoded).filter(|view| view.bytes.len() >= MIN_RUN / 2) {
        search(pattern, &view, depth, found);
    }
}

/// Bytes that were made from the text, and where each came from.
struct View {
    bytes: Zeroizing<Vec<u8>>,
    /// The start and the end of its origin in the text, for each byte.
    origins: Vec<(u32, u32)>,
}

impl View {
    fn of(text: &str) -> Self {
        let mut view = Self::empty();
        for (at, byte) in (0u32..).zip(text.bytes()) {
            view.push(byte, (at, at + 1));
        }
        view
    }

    fn empty() -> Self {
        Self { bytes: Zeroizing::new(Vec::new()), origins: Vec::new() }
    }

    fn push(&mut self, byte: u8, origin: (u32, u32)) {
        self.bytes.push(byte);
        self.origins.push(origin);
    }

    /// Ends a part of the view.
    fn gap(&mut self, at: u32) {
        if self.bytes.last().is_some_and(|last| *last != GAP) {
            self.push(GAP, (at, at));
        }
    }

    fn byte(&self, at: usize) -> Option<(u8, (u32, u32))> {
        Some((*self.bytes.get(at)?, *self.origins.get(at)?))
    }

    /// The range of the text that these bytes came from.
    fn origin(&self, range: Range<usize>) -> Option<Range<usize>> {
        let origins = self.origins.get(range)?;
        let (start, end) = (origins.first()?.0, origins.last()?.1);
        Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }

    /// The view with the escapes of one family replaced; `None` when it has none. In a text of another family, the same
    /// characters stand for themselves.
    fn unescaped(&self, family: u8) -> Option<Self> {
        if !self.bytes.contains(&family) {
            return None;
        }
        let (mut view, mut at) = (Self::empty(), 0);
        while let Some((byte, origin)) = self.byte(at) {
            let rest = self.bytes.get(at..).filter(|_| byte == family).unwrap_or_default();
            let Some((length, character)) = escape(rest) else {
                view.push(byte, origin);
                at += 1;
                continue;
            };
            let end = self.byte(at + length - 1).map_or(origin.1, |(_, origin)| origin.1);
            for byte in character {
                view.push(byte, (origin.0, end));
            }
            at += length;
        }
        Some(view)
    }

    /// What the digits in the view stand for: hexadecimal ones with 4 bits, or those of base64 with 6, without the first
    /// `skip` of each run. What may stand between the digits of one value is ignored: line breaks, quotes, separators.
    fn decoded(&self, bits: u32, skip: usize) -> Self {
        let (mut view, mut at, mut run) = (Self::empty(), 0, Run::default());
        while let Some((byte, origin)) = self.byte(at) {
            let rest = self.bytes.get(at..).unwrap_or_default();
            at += 1;
            if let Some(digit) = digit(byte, bits) {
                // `0x` and `\x` before the digits of a byte; `\n` in a text with escapes.
                let is_prefix = bits == 4 && byte == b'0' && rest.get(1) == Some(&b'x');
                if is_prefix {
                    at += 1;
                } else {
                    run.digits.push((digit, origin));
                }
            } else if let Some(length) = separator(rest, bits) {
                at += length - 1;
            } else {
                run.end(&mut view, bits, skip, origin.0);
            }
        }
        run.end(&mut view, bits, skip, u32::MAX);
        view
    }
}

/// Digits that belong together.
#[derive(Default)]
struct Run {
    digits: Vec<(u32, (u32, u32))>,
}

impl Run {
    /// Decodes it, and begins a new one.
    fn end(&mut self, view: &mut View, bits: u32, skip: usize, at: u32) {
        if self.digits.len() >= MIN_RUN {
            let (mut buffer, mut count, mut starts) = (0u32, 0, std::collections::VecDeque::new());
            for (digit, origin) in self.digits.iter().skip(skip) {
                starts.push_back(origin.0);
                (buffer, count) = (buffer << bits | digit, count + bits);
                if count >= 8 {
                    count -= 8;
                    let start = starts.front().copied().unwrap_or(origin.0);
                    let byte = u8::try_from(buffer >> count & 0xff).unwrap_or_default();
                    view.push(byte, (start, origin.1));
                    buffer &= (1 << count) - 1;
                    // The last digit has bits of the next byte.
                    let last = starts.pop_back().filter(|_| count > 0);
                    starts.clear();
                    starts.extend(last);
                }
            }
            view.gap(at);
        }
        self.digits.clear();
    }
}

fn digit(byte: u8, bits: u32) -> Option<u32> {
    let value = match byte {
        b'0'..=b'9' if bits == 4 => byte - b'0',
        b'a'..=b'f' if bits == 4 => byte - b'a' + 10,
        b'A'..=b'F' if bits == 4 => byte - b'A' + 10,
        _ if bits == 4 => return None,
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

/// The length of what may stand between two digits of one value.
fn separator(rest: &[u8], bits: u32) -> Option<usize> {
    match rest {
        [b'\\', b'n' | b'r' | b't' | b'\n' | b'x' | b'"', ..] => Some(2),
        [b'\\', ..] | [b' ' | b'\t' | b'\r' | b'\n' | b'"' | b'\'' | b',', ..] => Some(1),
        [b':' | b'-' | b'.' | b'_', ..] if bits == 4 => Some(1),
        // Adjacent texts in a program.
        [b'%', b'0', b'a' | b'A' | b'd' | b'D', ..] => Some(3),
        _ => None,
    }
}

/// The length and the meaning of an escape at the beginning: of JSON, C, addresses and HTML.
fn escape(rest: &[u8]) -> Option<(usize, Vec<u8>)> {
    let code = |digits: &[u8], radix: u32| u32::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok();
    let character = |length: usize, code: u32| {
        let text = char::from_u32(code)?.to_string();
        Some((length, text.into_bytes()))
    };
    match rest {
        [b'\\', b'u', a, b, c, d, ..] => {
            let high = code(&[*a, *b, *c, *d], 16)?;
            match rest.get(6..12) {
                Some([b'\\', b'u', low @ ..]) if (0xd800..0xdc00).contains(&high) => {
                    let low = code(low, 16).filter(|low| (0xdc00..0xe000).contains(low))?;
                    character(12, 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))
                }
                _ => character(6, high),
            }
        }
        [b'\\', b'x', a, b, ..] | [b'%', a, b, ..] => {
            let byte = u8::try_from(code(&[*a, *b], 16)?).ok()?;
            Some((if rest.first() == Some(&b'%') { 3 } else { 4 }, vec![byte]))
        }
        [b'\\', c @ (b'"' | b'\\' | b'/' | b'\''), ..] => Some((2, vec![*c])),
        [b'\\', b'n', ..] => Some((2, vec![b'\n'])),
        [b'\\', b't', ..] => Some((2, vec![b'\t'])),
        [b'&', b'#', tail @ ..] => {
            let end = tail.iter().take(8).position(|byte| *byte == b';')?;
            let digits = tail.get(..end)?;
            let value = match digits {
                [b'x' | b'X', hex @ ..] => code(hex, 16)?,
                decimal => code(decimal, 10)?,
            };
            character(end + 3, value)
        }
        [b'&', tail @ ..] => {
            let names: [(&[u8], u8); 5] =
                [(b"amp;", b'&'), (b"lt;", b'<'), (b"gt;", b'>'), (b"quot;", b'"'), (b"apos;", b'\'')];
            let (name, byte) = names.iter().find(|(name, _)| tail.starts_with(name))?;
            Some((name.len() + 1, vec![*byte]))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "disguise_tests.rs"]
mod tests;
