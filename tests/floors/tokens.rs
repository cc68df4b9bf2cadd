//! Splits Rust text into tokens, as far as finding imports needs it.

/// A word, `::`, or a single other character.
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// The tokens of Rust text without comments, strings, characters and lifetimes.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let length = comment(rest).or_else(|| literal(rest)).unwrap_or_else(|| {
            let length = match first {
                ':' if rest.starts_with("::") => 2,
                _ if is_word(first) => rest.find(|char| !is_word(char)).unwrap_or(rest.len()),
                _ => first.len_utf8(),
            };
            if !first.is_whitespace() {
                found.push(Token { text: rest[..length].to_owned(), line });
            }
            length
        });
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    found
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// The length of the comment that begins here. Block comments nest.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let (mut at, mut depth) = (2, 1);
    while depth > 0 {
        let next = text[at..].find(['/', '*'])? + at;
        (at, depth) = match text.get(next..next + 2) {
            Some("/*") => (next + 2, depth + 1),
            Some("*/") => (next + 2, depth - 1),
            _ => (next + 1, depth),
        };
    }
    Some(at)
}

/// The length of the string, character or lifetime that begins here, with its prefix (`b`, `c`, `r`, `br`, `cr`).
fn literal(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        let rest = text.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.starts_with(['"', '\'']) || raw_start(prefix, rest).is_some())
    })?;
    let rest = &text[prefix.len()..];
    let inside = if let Some(hashes) = raw_start(prefix, rest) {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = hashes + 1;
        start + rest[start..].find(&end)? + end.len()
    } else if let Some(string) = rest.strip_prefix('"') {
        1 + quoted(string, '"')?
    } else {
        let after = rest.strip_prefix('\'')?;
        let mut chars = after.chars();
        match (chars.next()?, chars.next()) {
            ('\\', _) => 1 + quoted(after, '\'')?,
            (char, Some('\'')) => char.len_utf8() + 2,
            // A lifetime.
            _ => 1 + after.find(|char| !is_word(char)).unwrap_or(after.len()),
        }
    };
    Some(prefix.len() + inside)
}

/// The number of `#` before the quote of a raw string.
fn raw_start(prefix: &str, rest: &str) -> Option<usize> {
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    (prefix.ends_with('r') && rest[hashes..].starts_with('"')).then_some(hashes)
}

/// The length up to and with the closing quote; a backslash escapes.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => drop(chars.next()),
            _ if char == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}
