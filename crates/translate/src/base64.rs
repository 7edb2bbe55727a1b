//! Standard base64, as protobuf's JSON writes bytes.

/// `None` for text that is not base64, padded or not.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0u32);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn padded_and_unpadded_text_is_read() {
        for (text, bytes) in [("aGk=", &b"hi"[..]), ("aGk", b"hi"), ("", b""), ("aGV5", b"hey")] {
            assert_eq!(super::decode(text).as_deref(), Some(bytes), "{text}");
        }
        assert_eq!(super::decode("a*"), None);
    }
}
