//! The compiled definitions: which messages and enums there are, and what their fields are called.
//!
//! `cargo xtask codegen proto` writes the file, this module reads it in place: nothing is built at start.
//! The file is ours, so its offsets are trusted; a test walks all of it.

use std::cmp::Ordering;

static BLOB: &[u8] = include_bytes!("tables.bin");

const HEADER: usize = 24;
const MESSAGE: usize = 16;
const FIELD: usize = 20;
const ENUM: usize = 12;
const VALUE: usize = 12;

/// A message type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Message(usize);

/// A field of a message type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Field(usize);

/// An enum type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Enum(usize);

/// What a field holds. The numbers are those of protobuf's descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Message,
    Bytes,
    Uint32,
    Enum,
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
}

impl Message {
    /// Looks a message up by its full name, without a slash.
    pub(super) fn find(name: &str) -> Option<Self> {
        find(count(0), |i| Self(i).name_bytes().cmp(name.as_bytes())).map(Self)
    }

    #[cfg(test)]
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..count(0)).map(Self)
    }

    pub(super) fn name(self) -> &'static str {
        text(self.name_bytes())
    }

    fn name_bytes(self) -> &'static [u8] {
        let at = self.at();
        bytes(u32_at(at), u16_at(at + 4).into())
    }

    pub(super) fn is_map_entry(self) -> bool {
        u32_at(self.at() + 12) != 0
    }

    pub(super) fn fields(self) -> impl Iterator<Item = Field> {
        let at = self.at();
        let start = u32_at(at + 8);
        (start..start + usize::from(u16_at(at + 6))).map(Field)
    }

    pub(super) fn field(self, number: u32) -> Option<Field> {
        let at = self.at();
        let start = u32_at(at + 8);
        find(u16_at(at + 6).into(), |i| Field(start + i).number().cmp(&number)).map(|i| Field(start + i))
    }

    /// Looks a field up by its JSON name or by the name in its definition.
    pub(super) fn field_named(self, name: &str) -> Option<Field> {
        let name = name.as_bytes();
        self.fields().find(|field| field.json_bytes() == name || field.name_bytes() == name)
    }

    fn at(self) -> usize {
        HEADER + self.0 * MESSAGE
    }
}

impl Field {
    pub(super) fn number(self) -> u32 {
        u32_at(self.at()) as u32
    }

    pub(super) fn name(self) -> &'static str {
        text(self.name_bytes())
    }

    pub(super) fn json(self) -> &'static str {
        text(self.json_bytes())
    }

    fn name_bytes(self) -> &'static [u8] {
        let at = self.at();
        bytes(u32_at(at + 4), BLOB[at + 12].into())
    }

    fn json_bytes(self) -> &'static [u8] {
        let at = self.at();
        bytes(u32_at(at + 8), BLOB[at + 13].into())
    }

    pub(super) fn kind(self) -> Kind {
        match BLOB[self.at() + 16] {
            1 => Kind::Double,
            2 => Kind::Float,
            3 => Kind::Int64,
            4 => Kind::Uint64,
            5 => Kind::Int32,
            6 => Kind::Fixed64,
            7 => Kind::Fixed32,
            8 => Kind::Bool,
            9 => Kind::String,
            11 => Kind::Message,
            12 => Kind::Bytes,
            13 => Kind::Uint32,
            14 => Kind::Enum,
            15 => Kind::Sfixed32,
            16 => Kind::Sfixed64,
            17 => Kind::Sint32,
            _ => Kind::Sint64,
        }
    }

    /// The type of a field of kind `Message`.
    pub(super) fn message(self) -> Message {
        Message(self.target())
    }

    /// The type of a field of kind `Enum`.
    pub(super) fn enumeration(self) -> Enum {
        Enum(self.target())
    }

    pub(super) fn is_repeated(self) -> bool {
        self.flags() & 1 != 0
    }

    pub(super) fn is_map(self) -> bool {
        self.is_repeated() && self.kind() == Kind::Message && self.message().is_map_entry()
    }

    pub(super) fn is_packed(self) -> bool {
        self.flags() & 2 != 0
    }

    /// Whether a default value that is set differs from one that is not.
    pub(super) fn has_presence(self) -> bool {
        self.flags() & 4 != 0
    }

    /// Which oneof of its message the field belongs to, counted from 1; 0 is none.
    pub(super) fn oneof(self) -> u8 {
        BLOB[self.at() + 18]
    }

    fn flags(self) -> u8 {
        BLOB[self.at() + 17]
    }

    fn target(self) -> usize {
        u16_at(self.at() + 14).into()
    }

    fn at(self) -> usize {
        HEADER + count(0) * MESSAGE + self.0 * FIELD
    }
}

impl Enum {
    pub(super) fn name(self) -> &'static str {
        let at = self.at();
        string(u32_at(at), u16_at(at + 4).into())
    }

    /// The first name of a number: aliases come later.
    pub(super) fn name_of(self, number: i32) -> Option<&'static str> {
        self.values().find(|value| value.0 == number).map(|value| value.1)
    }

    pub(super) fn number_of(self, name: &str) -> Option<i32> {
        self.values().find(|value| value.1 == name).map(|value| value.0)
    }

    pub(super) fn values(self) -> impl Iterator<Item = (i32, &'static str)> {
        let at = self.at();
        let start = u32_at(at + 8);
        (start..start + usize::from(u16_at(at + 6))).map(|i| {
            let at = HEADER + count(0) * MESSAGE + count(1) * FIELD + count(2) * ENUM + i * VALUE;
            (u32_at(at) as u32 as i32, string(u32_at(at + 4), u32_at(at + 8)))
        })
    }

    fn at(self) -> usize {
        HEADER + count(0) * MESSAGE + count(1) * FIELD + self.0 * ENUM
    }
}

/// How many messages (0), fields (1), enums (2), values (3) there are.
fn count(section: usize) -> usize {
    u32_at(4 + section * 4)
}

fn string(at: usize, len: usize) -> &'static str {
    text(bytes(at, len))
}

/// Names are compared as they are: a large configuration looks up hundreds of thousands.
fn bytes(at: usize, len: usize) -> &'static [u8] {
    let start = HEADER + count(0) * MESSAGE + count(1) * FIELD + count(2) * ENUM + count(3) * VALUE + at;
    &BLOB[start..start + len]
}

fn text(bytes: &'static [u8]) -> &'static str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn u32_at(at: usize) -> usize {
    u32::from_le_bytes([BLOB[at], BLOB[at + 1], BLOB[at + 2], BLOB[at + 3]]) as usize
}

fn u16_at(at: usize) -> u16 {
    u16::from_le_bytes([BLOB[at], BLOB[at + 1]])
}

fn find(len: usize, compare: impl Fn(usize) -> Ordering) -> Option<usize> {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        match compare(middle) {
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
            Ordering::Equal => return Some(middle),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_file_can_be_walked_and_looked_up() {
        assert_eq!(&BLOB[..4], b"MZJ1");
        assert!(count(0) > 500, "{} messages", count(0));
        for message in Message::all() {
            assert!(Message::find(message.name()) == Some(message), "{}", message.name());
            for field in message.fields() {
                assert!(message.field(field.number()) == Some(field));
                assert!(
                    message.field_named(field.json()) == Some(field),
                    "{}.{}",
                    message.name(),
                    field.name()
                );
                match field.kind() {
                    Kind::Message => assert!(!field.message().name().is_empty()),
                    Kind::Enum => {
                        let values: Vec<_> = field.enumeration().values().collect();
                        assert!(!values.is_empty(), "{}", field.enumeration().name());
                        assert!(values.iter().all(|v| field.enumeration().number_of(v.1) == Some(v.0)));
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn known_definitions_are_as_published() {
        let cluster = Message::find("envoy.config.cluster.v3.Cluster").unwrap();
        let timeout = cluster.field_named("connect_timeout").unwrap();
        assert_eq!((timeout.number(), timeout.json(), timeout.kind()), (4, "connectTimeout", Kind::Message));
        assert_eq!(timeout.message().name(), "google.protobuf.Duration");
        let kind = cluster.field(2).unwrap();
        assert!(kind.oneof() != 0 && kind.has_presence());
        assert_eq!(kind.enumeration().name_of(3), Some("EDS"));
        assert!(cluster.field_named("typedExtensionProtocolOptions").unwrap().is_map());
        assert!(Message::find("envoy.config.cluster.v3.Nothing").is_none());
    }
}
