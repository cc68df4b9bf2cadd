//! Splits certificates that stand one after the other in DER.

/// The certificates in `bytes`; `None` when the bytes are not a row of DER sequences.
pub(super) fn split(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = sequence(bytes)?;
        let (one, rest) = bytes.split_at_checked(length)?;
        found.push(one.to_vec());
        bytes = rest;
    }
    Some(found)
}

/// The length of the sequence at the beginning, with its head (X.690, 8.1.3).
fn sequence(bytes: &[u8]) -> Option<usize> {
    const SEQUENCE: u8 = 0x30;
    let (&SEQUENCE, &first) = (bytes.first()?, bytes.get(1)?) else { return None };
    if first < 0x80 {
        return Some(2 + usize::from(first));
    }
    // The number of bytes that hold the length. A certificate has fewer than 16 MiB.
    let count = usize::from(first & 0x7f);
    if !(1..=3).contains(&count) {
        return None;
    }
    let length = bytes.get(2..2 + count)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    Some(2 + count + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_sequences_is_split_and_everything_else_is_refused() {
        let long = [&[0x30, 0x82, 0x01, 0x00][..], &[7; 256]].concat();
        let row = [&[0x30, 0x02, 1, 2][..], &long, &[0x30, 0x00]].concat();
        let found = split(&row).unwrap();
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [4, 260, 2]);
        assert_eq!(split(&[]), Some(Vec::new()));
        for wrong in
            [&[0x31, 0x00][..], &[0x30], &[0x30, 0x02, 1], &[0x30, 0x80], &[0x30, 0x84, 0, 0, 0, 1, 7]]
        {
            assert_eq!(split(wrong), None, "{wrong:?}");
        }
    }
}
