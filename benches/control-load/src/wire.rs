//! Reads of a response only what a client needs to acknowledge it: lengths are skipped, nothing is decoded.

/// What is read of a response.
#[derive(Debug, Default)]
pub(crate) struct Head<'a> {
    pub(crate) type_url: &'a str,
    pub(crate) nonce: &'a str,
    pub(crate) version: &'a str,
    pub(crate) names: Vec<&'a str>,
}

/// Reads a response; `delta` says where its resources' names stand.
pub(crate) fn read(bytes: &[u8], delta: bool) -> Option<Head<'_>> {
    let mut head = Head::default();
    for (number, value) in Fields(bytes) {
        match number {
            1 => head.version = std::str::from_utf8(value).ok()?,
            2 => head.names.push(if delta { string(value, 3)? } else { string(bytes_of(value, 2)?, 1)? }),
            4 => head.type_url = std::str::from_utf8(value).ok()?,
            5 => head.nonce = std::str::from_utf8(value).ok()?,
            _ => {}
        }
    }
    Some(head)
}

fn string(bytes: &[u8], number: u64) -> Option<&str> {
    std::str::from_utf8(bytes_of(bytes, number)?).ok()
}

fn bytes_of(bytes: &[u8], number: u64) -> Option<&[u8]> {
    Fields(bytes).find(|(n, _)| *n == number).map(|(_, value)| value)
}

/// Fields with a length; others are skipped.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let tag = self.varint()?;
            let length = match tag & 7 {
                0 => {
                    self.varint()?;
                    continue;
                }
                1 => 8,
                5 => 4,
                _ => usize::try_from(self.varint()?).ok()?,
            };
            let (value, rest) = self.0.split_at_checked(length)?;
            self.0 = rest;
            if tag & 7 == 2 {
                return Some((tag >> 3, value));
            }
        }
    }
}

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}
