//! What a scalar without quotes is in YAML 1.1, as `go.yaml.in/yaml/v2` reads it: kube-apiserver's loader uses that.

/// The type of a plain scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    Null,
    Bool,
    Int,
    Float,
    Text,
}

/// What a plain scalar is; `None` for a number that JSON does not have.
pub(super) fn plain(text: &str) -> Option<Resolved> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Resolved::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" | "n" | "N"
        | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Resolved::Bool,
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf"
        | "-.Inf" | "-.INF" => return None,
        _ => number(text),
    })
}

fn number(text: &str) -> Resolved {
    let begins = text.as_bytes().first().copied().unwrap_or_default();
    match begins {
        b'.' if text.parse::<f64>().is_ok_and(f64::is_finite) && is_float(text) => Resolved::Float,
        b'0'..=b'9' | b'+' | b'-' => {
            let plain = text.replace('_', "");
            if is_int(&plain) {
                Resolved::Int
            } else if is_float(&plain) && plain.parse::<f64>().is_ok_and(f64::is_finite) {
                Resolved::Float
            } else {
                Resolved::Text
            }
        }
        _ => Resolved::Text,
    }
}

/// A number of 64 bits as Go reads it: with a base in front, or octal after a zero.
fn is_int(text: &str) -> bool {
    let (sign, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (text.get(..1).unwrap_or_default(), digits),
        None => ("", text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.get(..2) {
        Some("0x") => (16, lower.get(2..).unwrap_or_default()),
        Some("0b") => (2, lower.get(2..).unwrap_or_default()),
        Some("0o") => (8, lower.get(2..).unwrap_or_default()),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, lower.get(1..).unwrap_or_default()),
        _ => (10, lower.as_str()),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
        return false;
    }
    match sign {
        "" => u64::from_str_radix(digits, base).is_ok(),
        _ => i64::from_str_radix(&format!("{sign}{digits}"), base).is_ok(),
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (number, exponent) = match text.find(['e', 'E']) {
        Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..)),
        None => (text, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = match number.split_once('.') {
        Some(("", after)) => digits(after),
        Some((before, after)) => digits(before) && (after.is_empty() || digits(after)),
        None => digits(number),
    };
    number && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_have_the_types_of_yaml_1_1() {
        for (texts, expected) in [
            (&["", "~", "null"][..], Some(Resolved::Null)),
            (&["yes", "On", "n", "FALSE"], Some(Resolved::Bool)),
            (&["1", "-5", "0x1F", "017", "0b101", "1_000", "18446744073709551615"], Some(Resolved::Int)),
            (&["1.5", ".5", "1e3", "1.", "09", "99999999999999999999"], Some(Resolved::Float)),
            (
                &["a", "2_secrets", "1.2.3", "-", "+", "1:30", "2001-01-01", "<<", "nope"],
                Some(Resolved::Text),
            ),
            (&[".nan", "-.Inf"], None),
        ] {
            for text in texts {
                assert_eq!(plain(text), expected, "{text:?}");
            }
        }
    }
}
