//! Formats times and errors for people: in the log, in reports and in the status line. Programs get numbers.

use std::time::{Duration, UNIX_EPOCH};

use crate::clock::BootTime;
use crate::untrusted;

/// The last second that has a date: the end of the year 9999.
const LAST: u64 = 253_402_300_799;

/// A time in seconds since 1970 as a date (RFC 3339, UTC). A time before 1970 is shown as 1970, and one after the year
/// 9999 as its end.
pub(crate) fn date(unix_seconds: i64) -> String {
    rfc3339(Duration::from_secs(u64::try_from(unix_seconds).unwrap_or_default()))
}

/// A time on the wall clock (RFC 3339, UTC), to the second. The limits are those of [`date`].
pub(crate) fn moment(at: BootTime) -> String {
    rfc3339(at.wall().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The formatter has no year 10000.
fn rfc3339(since: Duration) -> String {
    let seconds = Duration::from_secs(since.as_secs().min(LAST));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + seconds).to_string()
}

/// A time on the wall clock (ISO 8601, UTC), to the minute: for lines that have little room.
pub(crate) fn minute(at: BootTime) -> String {
    moment(at).chars().take("2026-01-02T03:04".len()).chain(['Z']).collect()
}

/// A duration in its two largest units.
pub(crate) fn ago(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// An error with its causes, on one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let line = causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"));
    untrusted::visible(&line.replace('\n', "; "))
}

/// Words are not shortened below this, as long as the end of the text can be left out instead.
const SHORTEST_WORD: usize = 24;

/// `text` on one line, in at most `room` characters. Long words, such as names and addresses, lose their middle first.
/// When that is not enough, the text loses its end, at the end of a word.
pub(crate) fn fit(text: &str, room: usize) -> String {
    let visible = untrusted::visible(text);
    let words: Vec<&str> = visible.split_whitespace().collect();
    for longest in std::iter::once(usize::MAX).chain((SHORTEST_WORD..room).rev()) {
        let line = words.iter().map(|word| fit_word(word, longest)).collect::<Vec<_>>().join(" ");
        if line.chars().count() <= room {
            return line;
        }
    }
    let mut line = String::new();
    for word in words.iter().map(|word| fit_word(word, SHORTEST_WORD)) {
        let space = if line.is_empty() { "" } else { " " };
        // One character is for the mark of what is left out.
        if line.chars().count() + space.len() + word.chars().count() + 1 > room {
            break;
        }
        line.push_str(space);
        line.push_str(&word);
    }
    match line.trim_end_matches([':', ';', ',', ' ']) {
        "" => fit_word(words.first().copied().unwrap_or_default(), room),
        whole => format!("{whole}…"),
    }
}

/// A word in at most `room` characters: its middle is left out. More is kept of its end, which has the name of a file,
/// the line, or the port.
fn fit_word(word: &str, room: usize) -> String {
    let length = word.chars().count();
    if length <= room {
        return word.to_owned();
    }
    let Some(kept) = room.checked_sub(1) else { return String::new() };
    let tail = kept * 2 / 3;
    let head = kept - tail;
    word.chars().take(head).chain(['…']).chain(word.chars().skip(length - tail)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_lose_their_middle_and_then_a_text_loses_its_end() {
        assert_eq!(fit("a short text", 12), "a short text");
        assert_eq!(fit("two\nlines\tand a tab", 30), "two lines and a tab");
        let text = "https://vault-1.a-long-domain.example.com:8200 did not answer in time";
        assert_eq!(fit(text, 60), "https://vaul…-domain.example.com:8200 did not answer in time");
        assert_eq!(fit(text, 47), "https://…xample.com:8200 did not answer in time");
        assert_eq!(fit(text, 40), "https://…xample.com:8200 did not answer…");
        assert_eq!(fit("one two: three four", 10), "one two…");
        assert_eq!(fit("incomprehensibilities", 7), "in…ties");
        assert_eq!(fit("anything", 0), "");
    }

    #[test]
    fn every_number_has_a_date() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        for (number, year) in [
            (i64::MIN, "1970"),
            (-1, "1970"),
            (LAST as i64, "9999"),
            (LAST as i64 + 1, "9999"),
            (i64::MAX, "9999"),
        ] {
            assert!(date(number).starts_with(year), "{number}");
        }
        assert!(moment(BootTime(Duration::MAX)).len() == "1970-01-01T00:00:00Z".len());
        assert!(ago(Duration::MAX).ends_with('h'));
    }

    proptest::proptest! {
        #[test]
        fn a_text_always_fits(text in ".{0,200}", room in 0_usize..200) {
            let line = fit(&text, room);
            proptest::prop_assert!(line.chars().count() <= room, "{line:?}");
            proptest::prop_assert!(!line.contains(char::is_control), "{line:?}");
        }
    }
}
