//! What is compared, as named facts, and the few things that two runs may never agree on.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Read as _;

use crate::message::{Headers, Message, text};

/// Facts by name: `1.status`, `1.header.location`, `upstream.1.line`, `log.1.flags`, `connection`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation(pub BTreeMap<String, String>);

/// Longer bodies are compared by their length and a sum.
const LONG: usize = 2000;

impl Observation {
    pub fn note(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    pub fn append(&mut self, name: &str, value: &str) {
        match self.0.entry(name.to_owned()) {
            Entry::Vacant(entry) => _ = entry.insert(value.to_owned()),
            Entry::Occupied(mut entry) => {
                entry.get_mut().push_str(" | ");
                entry.get_mut().push_str(value);
            }
        }
    }

    /// An answer as the client saw it.
    pub fn response(&mut self, turn: usize, message: &Message) {
        self.note(&format!("{turn}.status"), &message.status().to_string());
        self.message(&turn.to_string(), message);
    }

    /// A request as the upstream saw it.
    pub fn upstream(&mut self, turn: usize, message: &Message) {
        self.note(&format!("upstream.{turn}.line"), &message.line);
        self.message(&format!("upstream.{turn}"), message);
    }

    /// A question as whoever is asked saw it.
    pub fn asked(&mut self, turn: usize, message: &Message) {
        self.note(&format!("asked.{turn}.line"), &message.line);
        self.message(&format!("asked.{turn}"), message);
    }

    /// A health check as the upstream saw it.
    pub fn check(&mut self, message: &Message) {
        self.note("check.line", &message.line);
        self.headers("check.header", &message.headers);
    }

    fn message(&mut self, prefix: &str, message: &Message) {
        self.headers(&format!("{prefix}.header"), &message.headers);
        self.headers(&format!("{prefix}.trailer"), &message.trailers);
        let decoded = decoded(message);
        let body = match decoded.len() {
            0 => String::new(),
            n if n > LONG => {
                let sum =
                    decoded.iter().fold(0_u64, |sum, b| sum.wrapping_mul(31).wrapping_add(u64::from(*b)));
                format!("{n} bytes of sum {sum:x}")
            }
            _ => text(&decoded),
        };
        self.note(&format!("{prefix}.body"), &body);
        if !message.complete {
            self.note(&format!("{prefix}.incomplete"), "yes");
        }
    }

    fn headers(&mut self, prefix: &str, headers: &Headers) {
        for (name, value) in headers {
            let name = name.to_ascii_lowercase();
            self.append(&format!("{prefix}.{name}"), &shown(&name, value));
        }
    }

    /// A line of the access log: its first field says whose it is, the others are `name=value`.
    pub fn log_line(&mut self, turn: usize, line: &str) {
        for field in line.split('\t') {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            let value = if is_uuid(value) { "UUID" } else { value };
            self.note(&format!("log.{turn}.{name}"), value);
        }
    }

    /// Addresses that only one side has are called by what they are.
    pub fn rename(&mut self, names: &[(String, &str)]) {
        for value in self.0.values_mut() {
            for (address, name) in names {
                if value.contains(address.as_str()) {
                    *value = value.replace(address.as_str(), name);
                }
            }
        }
    }

    /// The client's connections to the two have ports of their own.
    pub fn hide_port(&mut self, client: &str) {
        let address = format!("{client}:");
        for value in self.0.values_mut() {
            if let Some(at) = value.find(&address) {
                let port = at + address.len();
                let digits = value[port..].bytes().take_while(u8::is_ascii_digit).count();
                value.replace_range(port..port + digits, "PORT");
            }
        }
    }

    /// Names of facts that differ, with both values.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut names: Vec<&String> = self.0.keys().chain(other.0.keys()).collect();
        names.sort();
        names.dedup();
        names
            .into_iter()
            .filter(|name| self.0.get(*name) != other.0.get(*name))
            .map(|name| Difference {
                what: name.clone(),
                envoy: self.0.get(name).cloned(),
                mizzen: other.0.get(name).cloned(),
            })
            .collect()
    }
}

/// One fact that the two disagree on.
#[derive(Debug, Clone)]
pub struct Difference {
    pub what: String,
    pub envoy: Option<String>,
    pub mizzen: Option<String>,
}

/// The body as it was before it was encoded: encoders differ, and what they encode must not.
fn decoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    let read = match message.header("content-encoding") {
        Some("gzip") => flate2::read::GzDecoder::new(&message.body[..]).read_to_end(&mut out),
        Some("br") => brotli::Decompressor::new(&message.body[..], 4096).read_to_end(&mut out),
        _ => return message.body.clone(),
    };
    match read {
        Ok(_) => [b"decoded: ", &out[..]].concat(),
        Err(_) => message.body.clone(),
    }
}

/// Values that differ from run to run are shown by their kind.
fn shown(name: &str, value: &str) -> String {
    match name {
        "date" => "DATE".into(),
        "x-envoy-upstream-service-time" if value.bytes().all(|b| b.is_ascii_digit()) => "TIME".into(),
        // What is left of a timeout when a request is tried again.
        "x-envoy-expected-rq-timeout-ms" => match value.parse::<u64>() {
            Ok(millis) if millis > 1000 => (millis.div_ceil(1000) * 1000).to_string(),
            _ => value.to_owned(),
        },
        _ if is_uuid(value) => "UUID".into(),
        _ => value.to_owned(),
    }
}

pub fn is_uuid(value: &str) -> bool {
    // An id that a case sends begins with eight zeros, and is to come through as it is.
    value.len() == 36
        && !value.starts_with("00000000")
        && value.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_named() {
        let (mut a, mut b) = (Observation::default(), Observation::default());
        a.note("1.status", "200");
        b.note("1.status", "200");
        a.note("1.header.via", "127.1.1.1");
        b.note("1.header.via", "127.1.1.2");
        b.note("1.header.x", "1");
        a.rename(&[("127.1.1.1".into(), "PROXY")]);
        b.rename(&[("127.1.1.2".into(), "PROXY")]);
        let differ: Vec<String> = a.differences(&b).into_iter().map(|d| d.what).collect();
        assert_eq!(differ, ["1.header.x"]);
    }
}
