//! Protobuf's wire format: reading fields one by one, and the few writes that JSON needs.

use super::{Error, Message};

/// One field as it stands on the wire.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// Reads fields until the end of the input.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Reads one value without its tag, as packed lists hold them.
    pub(super) fn untagged(&mut self, wire_type: u64) -> Option<Result<Wire<'a>, Error>> {
        (!self.rest.is_empty()).then(|| self.value(wire_type))
    }

    fn field(&mut self) -> Result<(u32, Wire<'a>), Error> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| (1..1 << 29).contains(n));
        let number = number.ok_or_else(|| Error::new("a field number is out of range"))?;
        Ok((number, self.value(tag & 7)?))
    }

    fn value(&mut self, wire_type: u64) -> Result<Wire<'a>, Error> {
        match wire_type {
            0 => self.varint().map(Wire::Varint),
            1 => Ok(Wire::Fixed64(u64::from_le_bytes(self.array()?))),
            2 => {
                let len = self.varint()?;
                let len = usize::try_from(len).ok().filter(|len| *len <= self.rest.len());
                let (head, rest) = self.rest.split_at(len.ok_or_else(truncated)?);
                self.rest = rest;
                Ok(Wire::Bytes(head))
            }
            5 => Ok(Wire::Fixed32(u32::from_le_bytes(self.array()?))),
            other => Err(Error::new(format!("wire type {other} is not used by any supported message"))),
        }
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0u64;
        for (i, &byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                if i == 9 && byte > 1 {
                    break;
                }
                self.rest = &self.rest[i + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 { truncated() } else { Error::new("a varint is longer than 64 bits") })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(truncated)?;
        self.rest = rest;
        Ok(*head)
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<(u32, Wire<'a>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// The fields of a message, sorted by number, each in its order on the wire; of a oneof, only the member that counts.
pub(super) fn fields(message: Message, bytes: &[u8]) -> Result<Vec<(u32, Wire<'_>)>, Error> {
    let mut fields = Reader::new(bytes).collect::<Result<Vec<_>, _>>()?;
    let mut last_of = [0u32; 32];
    for (number, _) in &fields {
        if let Some(slot) = oneof_of(message, *number).and_then(|oneof| last_of.get_mut(oneof)) {
            *slot = *number;
        }
    }
    if last_of.iter().any(|number| *number != 0) {
        fields.retain(|(number, _)| {
            let last = oneof_of(message, *number).and_then(|oneof| last_of.get(oneof));
            last.is_none_or(|last| last == number)
        });
    }
    fields.sort_by_key(|(number, _)| *number);
    Ok(fields)
}

fn oneof_of(message: Message, number: u32) -> Option<usize> {
    message.field(number).map(|field| usize::from(field.oneof())).filter(|oneof| *oneof != 0)
}

/// The payload of a message field that may have come in several pieces, which protobuf merges.
pub(super) fn merged<'a>(pieces: &[(u32, Wire<'a>)]) -> Result<std::borrow::Cow<'a, [u8]>, Error> {
    if let [(_, Wire::Bytes(only))] = pieces {
        return Ok((*only).into());
    }
    let mut all = Vec::new();
    for (_, piece) in pieces {
        match piece {
            Wire::Bytes(bytes) => all.extend_from_slice(bytes),
            _ => return Err(mismatch()),
        }
    }
    Ok(all.into())
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: u32) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire_type));
}

pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn mismatch() -> Error {
    Error::new("the bytes are of another type than the definition")
}

fn truncated() -> Error {
    Error::new("the bytes end in the middle of a field")
}
