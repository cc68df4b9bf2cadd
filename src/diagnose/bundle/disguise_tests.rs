//! A secret in every dress is found, and other texts have none.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use data_encoding::{HEXLOWER, HEXUPPER};
use proptest::prelude::*;

use super::*;

fn finder(secret: &str) -> Finder {
    Finder::new(&[Zeroizing::new(secret.to_owned())]).unwrap()
}

/// The text in groups of `width`, joined by `separator`.
fn split(text: &str, width: usize, separator: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let groups: Vec<String> = characters.chunks(width).map(|group| group.iter().collect()).collect();
    groups.join(separator)
}

/// Every encoding, by its name.
fn dressed(text: &str) -> Vec<(&'static str, String)> {
    let bytes = text.as_bytes();
    let base64 = STANDARD.encode(bytes);
    let json = |text: &str| serde_json::to_string(text).unwrap();
    let units = |upper: bool| {
        let unit = |unit: u16| if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
        text.encode_utf16().map(unit).collect::<String>()
    };
    vec![
        ("plain", text.to_owned()),
        ("hex", HEXLOWER.encode(bytes)),
        ("upper-case hex", HEXUPPER.encode(bytes)),
        ("colon hex", split(&HEXLOWER.encode(bytes), 2, ":")),
        ("upper-case colon hex", split(&HEXUPPER.encode(bytes), 2, ":")),
        ("hex with spaces", split(&HEXLOWER.encode(bytes), 2, " ")),
        ("hex of a dump", split(&HEXLOWER.encode(bytes), 32, "\n")),
        ("hex of a program", format!("0x{}", split(&HEXLOWER.encode(bytes), 2, ", 0x"))),
        ("hex of a text", format!("\\x{}", split(&HEXLOWER.encode(bytes), 2, "\\x"))),
        ("base64", base64.clone()),
        ("base64 without padding", STANDARD_NO_PAD.encode(bytes)),
        ("base64 for addresses", URL_SAFE.encode(bytes)),
        ("wrapped base64", split(&base64, 20, "\n")),
        ("indented base64", split(&base64, 20, "\n    ")),
        ("base64 with CR LF", split(&base64, 20, "\r\n")),
        ("base64 in JSON", json(&split(&base64, 20, "\n"))),
        ("split base64", split(&base64, 13, "\" \"")),
        ("double base64", STANDARD.encode(&base64)),
        ("double wrapped base64", split(&STANDARD.encode(split(&base64, 20, "\n")), 20, "\n")),
        ("base64 of hex", STANDARD.encode(HEXUPPER.encode(bytes))),
        ("hex of base64", HEXUPPER.encode(base64.as_bytes())),
        ("JSON", json(text)),
        ("JSON in JSON", json(&json(text))),
        ("\\u escapes", units(false)),
        ("upper-case \\u escapes", units(true)),
        ("base64 of JSON", STANDARD.encode(json(text))),
        ("\\u escapes of base64", base64.chars().map(|c| format!("\\u{:04x}", c as u32)).collect()),
        ("percent", bytes.iter().map(|byte| format!("%{byte:02x}")).collect()),
        ("HTML", text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")),
        ("numbers of HTML", text.chars().map(|c| format!("&#{};", c as u32)).collect()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_clothes_hide_a_secret(secret in "[!-~]{6}|[ -~]{9,60}|[!-~]{3}[à-ü😀-😏]{6}", before in "[ -~]{0,7}", after in "[ -~]{0,7}") {
        let finder = finder(&secret);
        for whole in [secret.clone(), format!("{before}{secret}{after}")] {
            for (name, text) in dressed(&whole) {
                prop_assert!(!finder.find(&text).is_empty(), "{name}: {text:?}");
                let inside = format!("key = {text}\nnext = ordinary words, and more of them\n");
                let found = finder.find(&inside);
                prop_assert!(!found.is_empty(), "{name}: {inside:?}");
                prop_assert!(found.iter().all(|range| range.start >= 4), "{name}: {found:?} in {inside:?}");
            }
        }
    }

    #[test]
    fn a_range_is_of_whole_characters(secret in "[a-z]{8,20}", text in "\\PC{0,200}") {
        let finder = finder(&secret);
        for text in [text.clone(), format!("{text}{}{text}", STANDARD.encode(&secret)), format!("{text}{secret}")] {
            for range in finder.find(&text) {
                prop_assert!(text.get(range).is_some());
            }
        }
    }
}

#[test]
fn other_texts_have_no_secret() {
    let finder = finder("hvs.CAESIJ1234567890");
    for text in [
        "",
        "vault:v1:AAAA",
        "the quick brown fox jumps over the lazy dog",
        "deadbeefdeadbeef",
        "\\u",
        "%",
        "&#;",
    ] {
        assert!(finder.find(text).is_empty(), "{text}");
    }
    assert!(Finder::new(&[]).unwrap().find("hvs.CAESIJ1234567890").is_empty());
}
