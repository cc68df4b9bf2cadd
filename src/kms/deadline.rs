//! The deadline of a call, from the `grpc-timeout` header of the caller.

use std::time::Duration;

use tonic::Request;

use crate::clock::{Deadline, Purpose};

/// The part of a caller's time that is left for the answer to travel back; at most a tenth of it.
const MARGIN: Duration = Duration::from_millis(50);

/// The caller's deadline less the margin, and at most `limit` less the margin.
pub(super) fn of_request<T>(request: &Request<T>, limit: Duration) -> Deadline {
    let header = request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok());
    let timeout = header.and_then(parse_timeout).unwrap_or(limit).min(limit);
    Deadline::after(timeout.saturating_sub(MARGIN.min(timeout / 10))).of(Purpose::ApiServer)
}

/// `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2).
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_in_every_unit_and_nothing_else() {
        assert_eq!(parse_timeout("3S"), Some(Duration::from_secs(3)));
        assert_eq!(parse_timeout("2999m"), Some(Duration::from_millis(2999)));
        assert_eq!(parse_timeout("100u"), Some(Duration::from_micros(100)));
        assert_eq!(parse_timeout("5n"), Some(Duration::from_nanos(5)));
        assert_eq!(parse_timeout("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse_timeout("1M"), Some(Duration::from_secs(60)));
        for bad in ["", "S", "3", "3s", "-3S", "123456789S", "3é", "3.5S"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_leaves_time_for_the_answer_and_stays_within_the_limit() {
        let remaining = |timeout: Option<&'static str>| {
            let mut request = Request::new(());
            if let Some(timeout) = timeout {
                request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
            }
            let deadline = of_request(&request, Duration::from_secs(10));
            assert_eq!(deadline.purpose(), Purpose::ApiServer);
            deadline.remaining()
        };
        assert_eq!(remaining(Some("3S")), Duration::from_millis(2950));
        assert_eq!(remaining(Some("100m")), Duration::from_millis(90), "the margin is at most a tenth");
        assert_eq!(remaining(Some("1H")), Duration::from_millis(9950));
        assert_eq!(remaining(None), Duration::from_millis(9950));
    }
}
