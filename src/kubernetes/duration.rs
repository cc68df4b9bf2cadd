//! Durations as Kubernetes reads them: Go's `time.ParseDuration`, and longer than zero.

use std::time::Duration;

/// Reads a duration: numbers with units and without spaces, such as `3s`, `1m30s`, `1.5s` or `+.5h`. `None` for any
/// other text, and for what is not longer than zero: kube-apiserver refuses these as a provider's timeout. No other
/// duration is shorter than a nanosecond or longer than 292 years.
pub(crate) fn parse_text(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut nanoseconds: u64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit: u64 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1000,
            "ns" => 1,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        nanoseconds = nanoseconds.checked_add(whole.checked_mul(unit)?)?.checked_add(part(fraction, unit))?;
        rest = tail;
    }
    let limit = i64::MAX.unsigned_abs();
    (nanoseconds > 0 && nanoseconds <= limit).then(|| Duration::from_nanos(nanoseconds))
}

/// The nanoseconds of a fraction of a unit. Digits after the 18th do not count.
fn part(fraction: &str, unit: u64) -> u64 {
    let (mut value, mut scale) = (0u128, 1u128);
    for digit in fraction.bytes().take(18) {
        value = value * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    u64::try_from(value * u128::from(unit) / scale).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let milliseconds = |text: &str| parse_text(text).map(|duration| duration.as_millis());
        assert_eq!(milliseconds("3s"), Some(3000));
        assert_eq!(milliseconds("1m30s"), Some(90_000));
        assert_eq!(milliseconds("1.5s"), Some(1500));
        assert_eq!(milliseconds("500ms"), Some(500));
        for bad in ["3", "3 s", "3sec", "", "s", "0s", "-3s", "3x", "1s2"] {
            assert_eq!(milliseconds(bad), None, "{bad}");
        }
        assert_eq!(parse_text("+.5\u{b5}s"), Some(Duration::from_nanos(500)));
        assert_eq!(parse_text("2562048h"), None, "longer than Go's durations");
    }
}
