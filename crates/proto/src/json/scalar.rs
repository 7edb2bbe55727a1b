//! Numbers, strings, bytes and enums, from and to JSON.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose};
use serde_json::{Number, Value};

use super::wire::{Wire, mismatch, put_bytes, put_tag, put_varint};
use super::{Enum, Error, Field, Kind};

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// The wire type in which values of a kind stand.
pub(super) fn wire_type(kind: Kind) -> u32 {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => 1,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => 5,
        Kind::String | Kind::Bytes | Kind::Message => 2,
        _ => 0,
    }
}

/// A scalar from the wire, in JSON.
pub(super) fn to_json(field: Field, wire: Wire<'_>) -> Result<Value, Error> {
    Ok(match (field.kind(), wire) {
        (Kind::Double, Wire::Fixed64(bits)) => float(f64::from_bits(bits)),
        (Kind::Float, Wire::Fixed32(bits)) => single(f32::from_bits(bits)),
        (Kind::Int64, Wire::Varint(v)) => (v as i64).to_string().into(),
        (Kind::Uint64, Wire::Varint(v)) | (Kind::Fixed64, Wire::Fixed64(v)) => v.to_string().into(),
        (Kind::Sfixed64, Wire::Fixed64(v)) => (v as i64).to_string().into(),
        (Kind::Sint64, Wire::Varint(v)) => unzigzag(v).to_string().into(),
        (Kind::Int32, Wire::Varint(v)) => (v as i32).into(),
        (Kind::Uint32, Wire::Varint(v)) => (v as u32).into(),
        (Kind::Fixed32, Wire::Fixed32(v)) => v.into(),
        (Kind::Sfixed32, Wire::Fixed32(v)) => (v as i32).into(),
        (Kind::Sint32, Wire::Varint(v)) => (unzigzag(u64::from(v as u32)) as i32).into(),
        (Kind::Bool, Wire::Varint(v)) => (v != 0).into(),
        (Kind::String, Wire::Bytes(bytes)) => text(bytes)?.into(),
        (Kind::Bytes, Wire::Bytes(bytes)) => base64(bytes).into(),
        (Kind::Enum, Wire::Varint(v)) => enum_to_json(field.enumeration(), v as i32),
        _ => return Err(mismatch()),
    })
}

/// Whether a scalar has the value that an absent one has.
pub(super) fn is_default(wire: Wire<'_>) -> bool {
    match wire {
        Wire::Varint(v) | Wire::Fixed64(v) => v == 0,
        Wire::Fixed32(v) => v == 0,
        Wire::Bytes(bytes) => bytes.is_empty(),
    }
}

pub(super) fn text(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|_| Error::new("the string is not UTF-8"))
}

pub(super) fn base64(bytes: &[u8]) -> String {
    general_purpose::STANDARD.encode(bytes)
}

pub(super) fn unbase64(text: &str) -> Result<Vec<u8>, Error> {
    let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    engine.decode(text).map_err(|e| Error::new(format!("not base64: {e}")))
}

pub(super) fn float(value: f64) -> Value {
    match Number::from_f64(value) {
        // Whole numbers are written without a fraction, as other implementations do.
        Some(_)
            if value.fract() == 0.0 && value.abs() < 9e15 && !(value == 0.0 && value.is_sign_negative()) =>
        {
            (value as i64).into()
        }
        Some(number) => Value::Number(number),
        None if value.is_nan() => "NaN".into(),
        None if value > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

/// A float in the shortest digits that read back as the same float.
fn single(value: f32) -> Value {
    let shortest = value.to_string().parse::<f64>().unwrap_or_else(|_| value.into());
    float(if value.is_finite() { shortest } else { value.into() })
}

fn enum_to_json(enumeration: Enum, number: i32) -> Value {
    if enumeration.name() == "google.protobuf.NullValue" {
        return Value::Null;
    }
    enumeration.name_of(number).map_or_else(|| number.into(), Value::from)
}

/// Writes a scalar field from JSON; a default value without presence is left out, unless `keep` says otherwise.
pub(super) fn put(field: Field, value: &Value, out: &mut Vec<u8>, keep: bool) -> Result<(), Error> {
    let start = out.len();
    let number = field.number();
    let encoded = encode(field, value)?;
    if !keep && encoded.is_default() {
        return Ok(());
    }
    match encoded {
        Encoded::Plain(raw) => {
            put_tag(out, number, wire_type(field.kind()));
            raw.put(out);
        }
        Encoded::Bytes(bytes) => put_bytes(out, number, &bytes),
    }
    debug_assert!(out.len() > start);
    Ok(())
}

/// Writes a scalar of a packed list.
pub(super) fn put_packed(field: Field, value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
    match encode(field, value)? {
        Encoded::Plain(raw) => raw.put(out),
        Encoded::Bytes(_) => return Err(Error::new("lists of strings and bytes are never packed")),
    }
    Ok(())
}

enum Encoded {
    Plain(Raw),
    Bytes(Vec<u8>),
}

enum Raw {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
}

impl Encoded {
    fn is_default(&self) -> bool {
        match self {
            Self::Plain(Raw::Varint(v) | Raw::Fixed64(v)) => *v == 0,
            Self::Plain(Raw::Fixed32(v)) => *v == 0,
            Self::Bytes(bytes) => bytes.is_empty(),
        }
    }
}

impl Raw {
    fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Varint(v) => put_varint(out, v),
            Self::Fixed64(v) => out.extend_from_slice(&v.to_le_bytes()),
            Self::Fixed32(v) => out.extend_from_slice(&v.to_le_bytes()),
        }
    }
}

fn encode(field: Field, value: &Value) -> Result<Encoded, Error> {
    let raw = match field.kind() {
        Kind::Double => Raw::Fixed64(number(value)?.to_bits()),
        Kind::Float => {
            let wide = number(value)?;
            let narrow = wide as f32;
            if wide.is_finite() && narrow.is_infinite() {
                return Err(Error::new(format!("{wide} does not fit a 32-bit float")));
            }
            Raw::Fixed32(narrow.to_bits())
        }
        Kind::Int64 => Raw::Varint(integer::<i64>(value)? as u64),
        Kind::Uint64 => Raw::Varint(integer::<u64>(value)?),
        Kind::Sint64 => Raw::Varint(zigzag(integer::<i64>(value)?)),
        Kind::Fixed64 => Raw::Fixed64(integer::<u64>(value)?),
        Kind::Sfixed64 => Raw::Fixed64(integer::<i64>(value)? as u64),
        Kind::Int32 => Raw::Varint(i64::from(integer::<i32>(value)?) as u64),
        Kind::Uint32 => Raw::Varint(integer::<u32>(value)?.into()),
        Kind::Sint32 => Raw::Varint(zigzag(integer::<i32>(value)?.into())),
        Kind::Fixed32 => Raw::Fixed32(integer::<u32>(value)?),
        Kind::Sfixed32 => Raw::Fixed32(integer::<i32>(value)? as u32),
        Kind::Bool => Raw::Varint(boolean(value)?.into()),
        Kind::Enum => Raw::Varint(i64::from(enum_number(field.enumeration(), value)?) as u64),
        Kind::String => return Ok(Encoded::Bytes(string(value)?.as_bytes().to_vec())),
        Kind::Bytes => return Ok(Encoded::Bytes(unbase64(string(value)?)?)),
        Kind::Message => return Err(expected("an object", value)),
    };
    Ok(Encoded::Plain(raw))
}

pub(super) fn string(value: &Value) -> Result<&str, Error> {
    value.as_str().ok_or_else(|| expected("a string", value))
}

pub(super) fn boolean(value: &Value) -> Result<bool, Error> {
    value.as_bool().ok_or_else(|| expected("true or false", value))
}

pub(super) fn number(value: &Value) -> Result<f64, Error> {
    match value {
        Value::Number(number) => number.as_f64().ok_or_else(|| expected("a number", value)),
        Value::String(text) => match text.as_str() {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            // Rust reads more spellings of what is not a number than JSON has.
            text if text.contains(['n', 'N', 'i', 'I']) => Err(expected("a number", value)),
            text => text.parse().map_err(|_| expected("a number", value)),
        },
        _ => Err(expected("a number", value)),
    }
}

fn integer<T: TryFrom<i128>>(value: &Value) -> Result<T, Error> {
    let wide = match value {
        Value::Number(number) => number
            .as_i128()
            .or_else(|| number.as_f64().and_then(whole))
            .ok_or_else(|| expected("an integer", value))?,
        Value::String(text) => text
            .parse::<i128>()
            .ok()
            .or_else(|| text.parse::<f64>().ok().and_then(whole))
            .ok_or_else(|| expected("an integer", value))?,
        _ => return Err(expected("an integer", value)),
    };
    T::try_from(wide).map_err(|_| Error::new(format!("{wide} is out of range")))
}

fn whole(value: f64) -> Option<i128> {
    (value.fract() == 0.0 && value.abs() < 1e19).then_some(value as i128)
}

fn enum_number(enumeration: Enum, value: &Value) -> Result<i32, Error> {
    match value {
        Value::String(name) => enumeration.number_of(name).ok_or_else(|| {
            let names: Vec<_> = enumeration.values().map(|value| value.1).take(12).collect();
            Error::new(format!(
                "{name:?} is not a value of {}; write one of {}",
                enumeration.name(),
                names.join(", ")
            ))
        }),
        Value::Null if enumeration.name() == "google.protobuf.NullValue" => Ok(0),
        _ => integer(value),
    }
}

/// An error that says what stands there instead.
pub(super) fn expected(what: &str, value: &Value) -> Error {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(text) if text.len() <= 64 => {
            return Error::new(format!("expected {what}, found {text:?}"));
        }
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Error::new(format!("expected {what}, found {found}"))
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
