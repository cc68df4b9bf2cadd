//! The encoding of a text file. Editors of other systems write UTF-16, or a byte order mark before the text.
//!
//! Must not know what the text is for.

/// Why a file is not plain UTF-8 text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WrongEncoding {
    /// UTF-8, with a byte order mark before it, which most programs take for a part of the text.
    ByteOrderMark,
    Utf16 {
        little_endian: bool,
    },
    Unknown,
}

impl WrongEncoding {
    /// What is wrong with this content; `None` when it is UTF-8 text without a byte order mark.
    pub(crate) fn of(content: &[u8]) -> Option<Self> {
        // Without a mark, ASCII characters in UTF-16 have a zero in every second byte.
        let zeros = |first: usize| {
            content.len() >= 4 && content.iter().skip(first).step_by(2).take(32).all(|byte| *byte == 0)
        };
        match content {
            [0xef, 0xbb, 0xbf, ..] => Some(Self::ByteOrderMark),
            [0xff, 0xfe, ..] => Some(Self::Utf16 { little_endian: true }),
            [0xfe, 0xff, ..] => Some(Self::Utf16 { little_endian: false }),
            _ if zeros(1) => Some(Self::Utf16 { little_endian: true }),
            _ if zeros(0) => Some(Self::Utf16 { little_endian: false }),
            _ => std::str::from_utf8(content).is_err().then_some(Self::Unknown),
        }
    }

    /// As the end of a sentence about the file.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::ByteOrderMark => "begins with a byte order mark (UTF-8 with BOM)",
            Self::Utf16 { .. } => "is UTF-16 and not UTF-8 text",
            Self::Unknown => "is not UTF-8 text",
        }
    }

    /// The command that corrects the file with this path; `None` when there is none.
    pub(crate) fn command(self, path: &str) -> Option<String> {
        let convert = |from: &str| {
            format!(
                "iconv -f {from} -t UTF-8 {path} | sed '1s/^\\xEF\\xBB\\xBF//' | install -m 0600 /dev/stdin {path}.new, and move that to {path} with the owner and mode of the old file"
            )
        };
        match self {
            Self::ByteOrderMark => Some(format!("sed -i '1s/^\\xEF\\xBB\\xBF//' {path}")),
            Self::Utf16 { little_endian: true } => Some(convert("UTF-16LE")),
            Self::Utf16 { little_endian: false } => Some(convert("UTF-16BE")),
            Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_recognised_with_and_without_a_mark() {
        let utf16 = |text: &str, little: bool| -> Vec<u8> {
            text.encode_utf16()
                .flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() })
                .collect()
        };
        for little_endian in [true, false] {
            for text in ["\u{feff}s3cr3t\n", "s3cr3t\n", "-----BEGIN"] {
                let found = WrongEncoding::of(&utf16(text, little_endian));
                assert_eq!(found, Some(WrongEncoding::Utf16 { little_endian }), "{text:?}");
            }
        }
        assert_eq!(WrongEncoding::of("\u{feff}s3cr3t".as_bytes()), Some(WrongEncoding::ByteOrderMark));
        assert_eq!(WrongEncoding::of(&[b's', 0xff]), Some(WrongEncoding::Unknown));
        for good in ["", "s3cr3t\n", "Grüße", "x"] {
            assert_eq!(WrongEncoding::of(good.as_bytes()), None, "{good:?}");
        }
    }
}
