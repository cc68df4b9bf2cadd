//! A support bundle's text that holds a secret in some encoding.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a target that finds something panics

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use data_encoding::{HEXLOWER, HEXUPPER};
use zeroize::Zeroizing;

use super::Redaction;

thread_local! {
    /// To compile them costs more than everything else.
    static PATTERNS: Redaction = Redaction::new(&[]).expect("the patterns compile");
}

/// The text in groups of `width`, joined by `separator`.
fn split(text: &str, width: usize, separator: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let groups: Vec<String> = characters.chunks(width).map(|group| group.iter().collect()).collect();
    groups.join(separator)
}

fn encoded(kind: u8, text: &str) -> String {
    let bytes = text.as_bytes();
    match kind % 12 {
        0 => text.to_owned(),
        1 => HEXLOWER.encode(bytes),
        2 => HEXUPPER.encode(bytes),
        3 => split(&HEXLOWER.encode(bytes), 2, ":"),
        4 => STANDARD.encode(bytes),
        5 => STANDARD_NO_PAD.encode(bytes),
        6 => URL_SAFE.encode(bytes),
        7 => split(&STANDARD.encode(bytes), 20, "\n"),
        8 => split(&STANDARD.encode(bytes), 76, "\r\n  "),
        9 => serde_json::to_string(text).expect("JSON"),
        10 => text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect(),
        _ => bytes.iter().map(|byte| format!("%{byte:02X}")).collect(),
    }
}

/// A secret in one encoding or in two, inside other text: it is found, and not in the output.
pub(crate) fn redaction(input: &[u8]) {
    let Some((&[first, second, length], rest)) = input.split_first_chunk() else { return };
    let (secret, around) = rest.split_at(rest.len().min(9 + usize::from(length) % 52));
    let (Ok(secret), Ok(around)) = (std::str::from_utf8(secret), std::str::from_utf8(around)) else { return };
    // What the bundle looks for: secrets of one line, not too short.
    if secret.len() < 9 || secret.trim() != secret || secret.chars().any(|c| !(' '..='~').contains(&c)) {
        return;
    }
    let secrets = [Zeroizing::new(secret.to_owned())];
    let redaction = PATTERNS.with(|patterns| patterns.knowing(&secrets)).expect("the pattern compiles");
    let mut hidden = encoded(first, secret);
    if second % 2 == 1 {
        hidden = encoded(second / 2, &hidden);
    }
    let middle = (0..=around.len() / 2).rev().find(|at| around.is_char_boundary(*at)).unwrap_or_default();
    let (before, after) = around.split_at(middle);
    // A secret such as "ey = [reda" is in every output, whatever was hidden.
    if "key = [redacted]".contains(secret) {
        return;
    }
    let text = format!("{before}\nkey = {hidden}\n{after}");
    let clean = redaction.apply(&text);
    assert!(!clean.contains(&hidden), "{text:?} became {clean:?}");
    assert!(redaction.is_clean(&clean), "{text:?} became {clean:?}");
}
