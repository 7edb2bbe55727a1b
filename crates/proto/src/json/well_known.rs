//! The messages of `google.protobuf` that have a JSON form of their own.

use serde_json::{Map, Value};

use super::wire::{Reader, Wire, mismatch, put_bytes, put_tag, put_varint};
use super::{Error, Message, from_json, scalar, to_json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WellKnown {
    Any,
    Duration,
    Timestamp,
    Wrapper,
    Struct,
    Value,
    List,
    FieldMask,
}

const MAX_DURATION: i64 = 315_576_000_000;
/// From the year 1 to the end of the year 9999.
const TIMESTAMPS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

impl WellKnown {
    pub(super) fn of(message: Message) -> Option<Self> {
        Some(match message.name().strip_prefix("google.protobuf.")? {
            "Any" => Self::Any,
            "Duration" => Self::Duration,
            "Timestamp" => Self::Timestamp,
            "Struct" => Self::Struct,
            "Value" => Self::Value,
            "ListValue" => Self::List,
            "FieldMask" => Self::FieldMask,
            "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value"
            | "BoolValue" | "StringValue" | "BytesValue" => Self::Wrapper,
            _ => return None,
        })
    }
}

pub(super) fn to_json(kind: WellKnown, message: Message, bytes: &[u8], depth: u32) -> Result<Value, Error> {
    match kind {
        WellKnown::Any => {
            let (url, inner) = any_parts(bytes)?;
            to_json::any(url, inner, depth)
        }
        WellKnown::Duration => {
            let (seconds, nanos) = seconds_and_nanos(bytes)?;
            duration_text(seconds, nanos).map(Value::String)
        }
        WellKnown::Timestamp => {
            let (seconds, nanos) = seconds_and_nanos(bytes)?;
            timestamp_text(seconds, nanos).map(Value::String)
        }
        WellKnown::Wrapper => {
            let field = message.field(1).ok_or_else(mismatch)?;
            let zero = match scalar::wire_type(field.kind()) {
                0 => Wire::Varint(0),
                1 => Wire::Fixed64(0),
                5 => Wire::Fixed32(0),
                _ => Wire::Bytes(&[]),
            };
            scalar::to_json(field, last(bytes, 1)?.unwrap_or(zero))
        }
        WellKnown::Struct => struct_to_json(bytes, depth),
        WellKnown::Value => value_to_json(bytes, depth),
        WellKnown::List => list_to_json(bytes, depth),
        WellKnown::FieldMask => {
            let mut paths = Vec::new();
            for field in Reader::new(bytes) {
                if let (1, Wire::Bytes(path)) = field? {
                    paths.push(lower_camel(scalar::text(path)?));
                }
            }
            Ok(paths.join(",").into())
        }
    }
}

pub(super) fn from_json(
    kind: WellKnown,
    message: Message,
    value: &Value,
    out: &mut Vec<u8>,
    depth: u32,
) -> Result<(), Error> {
    match kind {
        WellKnown::Any => {
            let (url, inner) = from_json::any(value, depth)?;
            put_nonempty(out, 1, url.as_bytes());
            put_nonempty(out, 2, &inner);
        }
        WellKnown::Duration => {
            let text = scalar::string(value)?;
            let parsed = parse_duration(text);
            let (seconds, nanos) = parsed
                .ok_or_else(|| scalar::expected("a duration such as \"1.5s\" (seconds only)", value))?;
            put_seconds_and_nanos(out, seconds, nanos);
        }
        WellKnown::Timestamp => {
            let text = scalar::string(value)?;
            let parsed = parse_timestamp(text);
            let (seconds, nanos) = parsed.ok_or_else(|| {
                scalar::expected("an RFC 3339 time such as \"2026-01-31T12:00:00Z\"", value)
            })?;
            put_seconds_and_nanos(out, seconds, nanos);
        }
        WellKnown::Wrapper => {
            let field = message.field(1).ok_or_else(mismatch)?;
            scalar::put(field, value, out, false)?;
        }
        WellKnown::Struct => {
            let object = value.as_object().ok_or_else(|| scalar::expected("an object", value))?;
            struct_from_json(object, out, depth)?;
        }
        WellKnown::Value => value_from_json(value, out, depth)?,
        WellKnown::List => {
            let list = value.as_array().ok_or_else(|| scalar::expected("a list", value))?;
            list_from_json(list, out, depth)?;
        }
        WellKnown::FieldMask => {
            for path in scalar::string(value)?.split(',').filter(|path| !path.is_empty()) {
                put_bytes(out, 1, snake(path).as_bytes());
            }
        }
    }
    Ok(())
}

/// The type URL and value of an encoded `Any`.
pub(super) fn any_parts(bytes: &[u8]) -> Result<(&str, &[u8]), Error> {
    let url = match last(bytes, 1)? {
        None => "",
        Some(Wire::Bytes(url)) => scalar::text(url)?,
        Some(_) => return Err(mismatch()),
    };
    match last(bytes, 2)? {
        None => Ok((url, &[])),
        Some(Wire::Bytes(inner)) => Ok((url, inner)),
        Some(_) => Err(mismatch()),
    }
}

fn last(bytes: &[u8], number: u32) -> Result<Option<Wire<'_>>, Error> {
    let mut found = None;
    for field in Reader::new(bytes) {
        let (n, wire) = field?;
        if n == number {
            found = Some(wire);
        }
    }
    Ok(found)
}

fn put_nonempty(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_bytes(out, number, bytes);
    }
}

fn struct_to_json(bytes: &[u8], depth: u32) -> Result<Value, Error> {
    let depth = super::deeper(depth)?;
    let mut sorted = std::collections::BTreeMap::new();
    for field in Reader::new(bytes) {
        let (1, entry) = field? else { continue };
        let Wire::Bytes(entry) = entry else { return Err(mismatch()) };
        let key = match last(entry, 1)? {
            None => "",
            Some(Wire::Bytes(key)) => scalar::text(key)?,
            Some(_) => return Err(mismatch()),
        };
        let value = match last(entry, 2)? {
            None => Value::Null,
            Some(Wire::Bytes(value)) => value_to_json(value, depth).map_err(|e| e.within(key))?,
            Some(_) => return Err(mismatch()),
        };
        sorted.insert(key.to_owned(), value);
    }
    Ok(Value::Object(sorted.into_iter().collect()))
}

fn list_to_json(bytes: &[u8], depth: u32) -> Result<Value, Error> {
    let depth = super::deeper(depth)?;
    let mut list = Vec::new();
    for field in Reader::new(bytes) {
        match field? {
            (1, Wire::Bytes(value)) => {
                list.push(value_to_json(value, depth).map_err(|e| e.at_index(list.len()))?);
            }
            (1, _) => return Err(mismatch()),
            _ => {}
        }
    }
    Ok(Value::Array(list))
}

fn value_to_json(bytes: &[u8], depth: u32) -> Result<Value, Error> {
    let depth = super::deeper(depth)?;
    let mut found = Value::Null;
    for field in Reader::new(bytes) {
        found = match field? {
            (1, Wire::Varint(_)) => Value::Null,
            (2, Wire::Fixed64(bits)) => match f64::from_bits(bits) {
                number if number.is_finite() => scalar::float(number),
                _ => return Err(Error::new("a google.protobuf.Value cannot be infinite or not a number")),
            },
            (3, Wire::Bytes(text)) => scalar::text(text)?.into(),
            (4, Wire::Varint(flag)) => (flag != 0).into(),
            (5, Wire::Bytes(inner)) => struct_to_json(inner, depth)?,
            (6, Wire::Bytes(inner)) => list_to_json(inner, depth)?,
            (1..=6, _) => return Err(mismatch()),
            _ => found,
        };
    }
    Ok(found)
}

fn struct_from_json(object: &Map<String, Value>, out: &mut Vec<u8>, depth: u32) -> Result<(), Error> {
    let depth = super::deeper(depth)?;
    for (key, value) in object {
        let mut inner = Vec::new();
        value_from_json(value, &mut inner, depth).map_err(|e| e.within(key))?;
        let mut entry = Vec::new();
        put_nonempty(&mut entry, 1, key.as_bytes());
        put_bytes(&mut entry, 2, &inner);
        put_bytes(out, 1, &entry);
    }
    Ok(())
}

fn list_from_json(list: &[Value], out: &mut Vec<u8>, depth: u32) -> Result<(), Error> {
    let depth = super::deeper(depth)?;
    for (i, value) in list.iter().enumerate() {
        let mut inner = Vec::new();
        value_from_json(value, &mut inner, depth).map_err(|e| e.at_index(i))?;
        put_bytes(out, 1, &inner);
    }
    Ok(())
}

fn value_from_json(value: &Value, out: &mut Vec<u8>, depth: u32) -> Result<(), Error> {
    let mut inner = Vec::new();
    match value {
        Value::Null => {
            put_tag(out, 1, 0);
            put_varint(out, 0);
        }
        Value::Number(_) => {
            put_tag(out, 2, 1);
            out.extend_from_slice(&scalar::number(value)?.to_bits().to_le_bytes());
        }
        Value::String(text) => put_bytes(out, 3, text.as_bytes()),
        Value::Bool(flag) => {
            put_tag(out, 4, 0);
            put_varint(out, u64::from(*flag));
        }
        Value::Object(object) => {
            struct_from_json(object, &mut inner, super::deeper(depth)?)?;
            put_bytes(out, 5, &inner);
        }
        Value::Array(list) => {
            list_from_json(list, &mut inner, super::deeper(depth)?)?;
            put_bytes(out, 6, &inner);
        }
    }
    Ok(())
}

fn seconds_and_nanos(bytes: &[u8]) -> Result<(i64, i32), Error> {
    let number = |number| match last(bytes, number)? {
        None => Ok(0),
        Some(Wire::Varint(v)) => Ok(v as i64),
        Some(_) => Err(mismatch()),
    };
    Ok((number(1)?, number(2)? as i32))
}

fn put_seconds_and_nanos(out: &mut Vec<u8>, seconds: i64, nanos: i32) {
    for (number, value) in [(1, seconds), (2, i64::from(nanos))] {
        if value != 0 {
            put_tag(out, number, 0);
            put_varint(out, value as u64);
        }
    }
}

fn duration_text(seconds: i64, nanos: i32) -> Result<String, Error> {
    let in_range = seconds.abs() <= MAX_DURATION && nanos.abs() < 1_000_000_000;
    if !in_range || (seconds < 0 && nanos > 0) || (seconds > 0 && nanos < 0) {
        return Err(Error::new(format!("{seconds} s and {nanos} ns are not a duration")));
    }
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    Ok(format!("{sign}{}{}s", seconds.abs(), fraction(nanos.unsigned_abs())))
}

/// Nothing, or a point and 3, 6 or 9 digits.
fn fraction(nanos: u32) -> String {
    match nanos {
        0 => String::new(),
        n if n.is_multiple_of(1_000_000) => format!(".{:03}", n / 1_000_000),
        n if n.is_multiple_of(1_000) => format!(".{:06}", n / 1_000),
        n => format!(".{n:09}"),
    }
}

fn parse_duration(text: &str) -> Option<(i64, i32)> {
    let number = text.strip_suffix('s')?;
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let seconds: i64 = digits(whole)?.parse().ok().filter(|s| *s <= MAX_DURATION)?;
    let nanos = parse_fraction(part)?;
    Some(if negative { (-seconds, -nanos) } else { (seconds, nanos) })
}

fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

fn parse_fraction(part: &str) -> Option<i32> {
    let part = digits(part).filter(|part| part.len() <= 9)?;
    format!("{part:0<9}").parse().ok()
}

fn timestamp_text(seconds: i64, nanos: i32) -> Result<String, Error> {
    if !TIMESTAMPS.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        return Err(Error::new(format!("{seconds} s and {nanos} ns are not a time")));
    }
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let time = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let fraction = fraction(nanos.unsigned_abs());
    Ok(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"))
}

fn parse_timestamp(text: &str) -> Option<(i64, i32)> {
    let (date, time) = text.split_once(['T', 't'])?;
    let (year, month, day) = numbers(date, '-', [4, 2, 2])?;
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
        return None;
    }
    let zone_at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone_at);
    let (clock, part) = clock.split_once('.').unwrap_or((clock, "0"));
    let (hour, minute, second) = numbers(clock, ':', [2, 2, 2])?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(zone)?;
    TIMESTAMPS.contains(&seconds).then_some((seconds, parse_fraction(part)?))
}

fn offset(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hour, minute) = zone.get(1..)?.split_once(':')?;
    let (hour, minute): (i64, i64) = (two(hour)?, two(minute)?);
    (hour < 24 && minute < 60).then_some(sign * (hour * 3600 + minute * 60))
}

fn two(text: &str) -> Option<i64> {
    digits(text).filter(|text| text.len() == 2)?.parse().ok()
}

fn numbers(text: &str, separator: char, lens: [usize; 3]) -> Option<(i64, i64, i64)> {
    let mut parts = text
        .split(separator)
        .zip(lens)
        .map(|(part, len)| digits(part).filter(|part| part.len() == len).and_then(|part| part.parse().ok()));
    let found = (parts.next()??, parts.next()??, parts.next()??);
    (text.split(separator).count() == 3).then_some(found)
}

/// Days since 1970-01-01 of a date of the Gregorian calendar, counted in years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let shifted = (month + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

fn civil(days: i64) -> (i64, i64, i64) {
    // The year by estimate, then put right: cheaper to believe than closed formulas.
    let mut year = 1970 + days.div_euclid(366);
    while self::days(year, 1, 1) > days {
        year -= 1;
    }
    while self::days(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && self::days(year, month + 1, 1) <= days {
        month += 1;
    }
    (year, month, days - self::days(year, month, 1) + 1)
}

fn days_in(year: i64, month: i64) -> i64 {
    let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days(next_year, next_month, 1) - days(year, month, 1)
}

fn lower_camel(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut upper = false;
    for c in path.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

fn snake(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 4);
    for c in path.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, seconds, nanos) in [
            ("0s", 0, 0),
            ("10s", 10, 0),
            ("0.250s", 0, 250_000_000),
            ("1.000001s", 1, 1000),
            ("-1.500s", -1, -500_000_000),
            ("0.000000001s", 0, 1),
        ] {
            assert_eq!(parse_duration(text), Some((seconds, nanos)), "{text}");
            assert_eq!(duration_text(seconds, nanos).as_deref(), Ok(text));
        }
        assert_eq!(parse_duration("1.5s"), Some((1, 500_000_000)));
        for wrong in
            ["", "s", "1", "1m", "1h2s", ".5s", "1.s", "--1s", "+1s", "1.0000000001s", "999999999999s"]
        {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
        assert!(duration_text(1, -1).is_err() && duration_text(MAX_DURATION + 1, 0).is_err());
    }

    #[test]
    fn times_are_read_and_written() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2026-11-23T07:30:59Z", 1_795_419_059, 0),
            ("2000-02-29T23:59:59.120Z", 951_868_799, 120_000_000),
            ("1969-12-31T23:59:59Z", -1, 0),
            ("0001-01-01T00:00:00Z", *TIMESTAMPS.start(), 0),
            ("9999-12-31T23:59:59.999999999Z", *TIMESTAMPS.end(), 999_999_999),
        ] {
            assert_eq!(parse_timestamp(text), Some((seconds, nanos)), "{text}");
            assert_eq!(timestamp_text(seconds, nanos).as_deref(), Ok(text));
        }
        assert_eq!(parse_timestamp("1970-01-01T01:00:00+01:00"), Some((0, 0)));
        for wrong in [
            "",
            "1970-01-01",
            "1970-02-29T00:00:00Z",
            "1970-13-01T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:00",
        ] {
            assert_eq!(parse_timestamp(wrong), None, "{wrong}");
        }
    }
}
