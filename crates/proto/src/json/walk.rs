//! Lists what a message sets, with the paths of JSON, through nested messages and every `Any`.
//!
//! Who does not support a field refuses it by name with what it finds here, instead of ignoring it.

use super::well_known::{WellKnown, any_parts};
use super::wire::{Wire, fields, merged, mismatch};
use super::{Error, Field, Kind, Message, bare, deeper, scalar};

/// A field that a message sets.
#[derive(Debug, Clone, Copy)]
pub struct SetField<'a> {
    /// The full name of the message that defines the field.
    pub message: &'static str,
    /// The field's name in its definition, with underscores; empty where no definition has its number.
    pub name: &'static str,
    pub number: u32,
    /// Where it stands, in JSON names: `routes[0].route.cluster`; `routes[0].<99>` for one without a name.
    pub path: &'a str,
    /// Of an `Any` the type URL; else empty.
    pub type_url: &'a str,
    /// The encoded value of a singular field that is neither a number, an enum nor a boolean; else empty.
    pub bytes: &'a [u8],
    /// The bits of a singular number, enum or boolean; else 0.
    pub bits: u64,
}

/// Whether to list what is within a field as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    Into,
    Over,
}

/// Calls `visit` with each field that is set, parents before their children, elements of lists and maps each with their
/// own path. Numbers at their default that cannot be told from absent ones are not listed; what stands in a
/// `google.protobuf.Struct` is data and not listed.
pub fn set_fields(
    type_name: &str,
    bytes: &[u8],
    visit: &mut dyn FnMut(SetField<'_>) -> Walk,
) -> Result<(), Error> {
    let mut walker = Walker { path: String::new(), visit };
    walker.message(super::find(type_name)?, bytes, 0).map_err(|mut e| {
        e.path = std::mem::take(&mut walker.path);
        e
    })
}

struct Walker<'v> {
    path: String,
    visit: &'v mut dyn FnMut(SetField<'_>) -> Walk,
}

impl Walker<'_> {
    fn message(&mut self, message: Message, bytes: &[u8], depth: u32) -> Result<(), Error> {
        let depth = deeper(depth)?;
        match WellKnown::of(message) {
            Some(WellKnown::Any) => {
                let (url, inner) = any_parts(bytes)?;
                match Message::find(bare(url)) {
                    Some(known) => self.message(known, inner, depth),
                    None => Ok(()),
                }
            }
            Some(_) => Ok(()),
            None => self.fields(message, bytes, depth),
        }
    }

    fn fields(&mut self, message: Message, bytes: &[u8], depth: u32) -> Result<(), Error> {
        let fields = fields(message, bytes)?;
        for pieces in fields.chunk_by(|a, b| a.0 == b.0) {
            let length = self.path.len();
            let number = pieces[0].0;
            match message.field(number) {
                Some(field) => {
                    self.step(field.json());
                    self.field(message, field, pieces, depth)?;
                }
                None => {
                    self.step(&format!("<{number}>"));
                    let (name, type_url) = ("", "");
                    let path = &self.path;
                    (self.visit)(SetField {
                        message: message.name(),
                        name,
                        number,
                        path,
                        type_url,
                        bytes: &[],
                        bits: 0,
                    });
                }
            }
            self.path.truncate(length);
        }
        Ok(())
    }

    fn field(
        &mut self,
        message: Message,
        field: Field,
        pieces: &[(u32, Wire<'_>)],
        depth: u32,
    ) -> Result<(), Error> {
        if !field.is_repeated() {
            if field.kind() == Kind::Message {
                return self.nested(message, field, field.message(), &merged(pieces)?, depth);
            }
            let Some((_, last)) = pieces.last() else { return Ok(()) };
            if field.has_presence() || !scalar::is_default(*last) {
                let (bytes, bits) = match last {
                    Wire::Bytes(bytes) => (*bytes, 0),
                    Wire::Varint(v) | Wire::Fixed64(v) => (&[][..], *v),
                    Wire::Fixed32(v) => (&[][..], u64::from(*v)),
                };
                self.visit(message, field, "", bytes, bits);
            }
            return Ok(());
        }
        if field.kind() != Kind::Message {
            self.visit(message, field, "", &[], 0);
            return Ok(());
        }
        let length = self.path.len();
        for (i, (_, piece)) in pieces.iter().enumerate() {
            let Wire::Bytes(bytes) = piece else { return Err(mismatch()) };
            if field.is_map() {
                self.entry(message, field, bytes, depth)?;
            } else {
                self.path.push_str(&format!("[{i}]"));
                self.nested(message, field, field.message(), bytes, depth)?;
            }
            self.path.truncate(length);
        }
        Ok(())
    }

    fn entry(&mut self, message: Message, field: Field, bytes: &[u8], depth: u32) -> Result<(), Error> {
        let entry = field.message();
        let fields = fields(entry, bytes)?;
        let key = match fields.iter().rfind(|f| f.0 == 1) {
            Some((_, Wire::Bytes(key))) => scalar::text(key)?.to_owned(),
            Some((_, Wire::Varint(key))) => key.to_string(),
            _ => String::new(),
        };
        self.path.push_str(&format!("[{key:?}]"));
        let Some(value) = entry.field(2) else { return Err(mismatch()) };
        match fields.iter().rfind(|f| f.0 == 2) {
            Some((_, Wire::Bytes(bytes))) if value.kind() == Kind::Message => {
                self.nested(message, field, value.message(), bytes, depth)
            }
            _ => {
                self.visit(message, field, "", &[], 0);
                Ok(())
            }
        }
    }

    fn nested(
        &mut self,
        message: Message,
        field: Field,
        inner: Message,
        bytes: &[u8],
        depth: u32,
    ) -> Result<(), Error> {
        let type_url = if WellKnown::of(inner) == Some(WellKnown::Any) { any_parts(bytes)?.0 } else { "" };
        match self.visit(message, field, type_url, bytes, 0) {
            Walk::Into => self.message(inner, bytes, depth),
            Walk::Over => Ok(()),
        }
    }

    fn visit(&mut self, message: Message, field: Field, type_url: &str, bytes: &[u8], bits: u64) -> Walk {
        (self.visit)(SetField {
            message: message.name(),
            name: field.name(),
            number: field.number(),
            path: &self.path,
            type_url,
            bytes,
            bits,
        })
    }

    fn step(&mut self, name: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
    }
}
