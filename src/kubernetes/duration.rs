//! Durations as Kubernetes reads them: Go's `time.ParseDuration`, and longer than zero.

use std::time::Duration;

use serde_json::Value;

/// Reads a duration: numbers with units and without spaces, such as `3s`, `1m30s` or `1.5s`. `None` for any other
/// text, for zero, and for a value that is not text: kube-apiserver refuses these as a provider's timeout.
pub(crate) fn parse(value: &Value) -> Option<Duration> {
    parse_text(value.as_str()?)
}

/// Like [`parse`], for a text.
pub(crate) fn parse_text(text: &str) -> Option<Duration> {
    let plain =
        text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'h' | 'm' | 's' | 'u' | 'n' | 'µ'));
    if !plain || !text.ends_with(['h', 'm', 's']) {
        return None;
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * seconds;
        rest = tail;
    }
    Duration::try_from_secs_f64(total).ok().filter(|duration| !duration.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let milliseconds = |text: &str| parse(&Value::from(text)).map(|duration| duration.as_millis());
        assert_eq!(milliseconds("3s"), Some(3000));
        assert_eq!(milliseconds("1m30s"), Some(90_000));
        assert_eq!(milliseconds("1.5s"), Some(1500));
        assert_eq!(milliseconds("500ms"), Some(500));
        for bad in ["3", "3 s", "3sec", "", "s", "0s", "-3s", "3x", "1s2"] {
            assert_eq!(milliseconds(bad), None, "{bad}");
        }
        assert_eq!(parse(&Value::from(3)), None);
    }
}
