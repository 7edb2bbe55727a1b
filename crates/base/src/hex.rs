//! Numbers as hexadecimal digits, for ids that every request has: `format!` takes several times as long.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Appends the last so many digits of a number, in lower case.
pub fn push_hex(text: &mut String, number: u64, digits: usize) {
    text.extend((0..digits).rev().map(|at| char::from(DIGITS[(number >> (4 * at)) as usize & 15])));
}

/// Sixteen digits.
pub fn hex(number: u64) -> String {
    let mut text = String::with_capacity(16);
    push_hex(&mut text, number, 16);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_format() {
        for number in [0, 1, 0xabc, u64::MAX, 0x0123_4567_89ab_cdef] {
            assert_eq!(hex(number), format!("{number:016x}"));
        }
        let mut text = "-".to_owned();
        push_hex(&mut text, 0x1_f00d, 4);
        push_hex(&mut text, 7, 0);
        assert_eq!(text, "-f00d");
    }
}
