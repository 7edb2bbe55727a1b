//! Responses in two parts: a small head for one stream, and a payload that all streams share.
//!
//! A response's fields may stand in any order on the wire, so everything about the stream (nonce, version, type) goes
//! into the head, and the resources, encoded once, follow as they are. Nothing of a payload is copied per stream.
//!
//! A payload is made of parts, cut where the resources themselves say so: streams whose resources differ in a few share
//! all parts but those.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ahash::{AHashMap, RandomState};
use bytes::{BufMut, Bytes, BytesMut};
use proto::{Resource, ResourceType};

use crate::Mode;

const VERSION: u32 = 1;
const RESOURCES: u32 = 2;
const TYPE_URL: u32 = 4;
const NONCE: u32 = 5;
const REMOVED: u32 = 6;

/// A part ends with one in so many resources.
const PART: u64 = 16;

/// What an entry costs beside its bytes.
const ENTRY: usize = 64;

/// The resources of a response, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// One after the other.
    pub parts: Vec<Bytes>,
    /// Equal for equal resources.
    pub id: u64,
}

impl Payload {
    /// How many bytes there are in all parts.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }
}

/// Parts of payloads that were encoded lately, for whoever needs the same. Bounded by bytes.
#[derive(Debug)]
pub struct Payloads {
    inner: Mutex<Inner>,
    hashers: [RandomState; 2],
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Inner {
    entries: AHashMap<u128, Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    /// Nothing before the same is needed for the second time: most of what only one client has never is.
    part: Option<Bytes>,
    used: Instant,
}

impl Entry {
    fn size(&self) -> usize {
        ENTRY + self.part.as_ref().map_or(0, Bytes::len)
    }
}

impl Payloads {
    pub fn new(max_bytes: usize) -> Self {
        let seed = |n| RandomState::with_seeds(n, n + 1, n + 2, n + 3);
        Self { inner: Mutex::default(), hashers: [seed(11), seed(101)], max_bytes }
    }

    /// The encoded form of the resources, layer by layer, from memory if others needed the same before.
    pub fn get<'a>(
        &self,
        mode: Mode,
        resource_type: ResourceType,
        layers: impl IntoIterator<Item = &'a [Resource]>,
        now: Instant,
    ) -> Payload {
        use std::hash::{BuildHasher, Hash, Hasher};
        let mut id = self.hashers[0].build_hasher();
        (mode, resource_type).hash(&mut id);
        let mut parts = Vec::new();
        for layer in layers {
            for part in layer.split_inclusive(|resource| resource.version.is_multiple_of(PART)) {
                let key = self.key(mode, resource_type, part);
                key.hash(&mut id);
                parts.push(self.part(key, mode, resource_type, part, now));
            }
        }
        Payload { parts, id: id.finish() }
    }

    fn part(&self, key: u128, mode: Mode, t: ResourceType, resources: &[Resource], now: Instant) -> Bytes {
        let again = match self.lock().entries.get_mut(&key) {
            Some(entry) => {
                entry.used = now;
                if let Some(part) = &entry.part {
                    return part.clone();
                }
                true
            }
            None => false,
        };
        let part = encode(mode, t, resources);
        let mut inner = self.lock();
        inner.keep(key, Entry { part: again.then(|| part.clone()), used: now });
        while inner.bytes > self.max_bytes && inner.entries.len() > 1 {
            let Some(oldest) = inner.entries.iter().min_by_key(|(_, e)| e.used).map(|(key, _)| *key) else {
                break;
            };
            inner.remove(oldest);
        }
        part
    }

    /// Drops what nobody used for a while.
    pub fn forget(&self, unused_for: Duration, now: Instant) {
        let mut inner = self.lock();
        let old = |entry: &Entry| now.saturating_duration_since(entry.used) > unused_for;
        let keys: Vec<_> = inner.entries.iter().filter(|(_, e)| old(e)).map(|(key, _)| *key).collect();
        for key in keys {
            inner.remove(key);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, mode: Mode, resource_type: ResourceType, resources: &[Resource]) -> u128 {
        use std::hash::{BuildHasher, Hash, Hasher};
        let [high, low] = self.hashers.each_ref().map(|state| {
            let mut hasher = state.build_hasher();
            (mode, resource_type, resources.len()).hash(&mut hasher);
            for resource in resources {
                resource.name.hash(&mut hasher);
                resource.version.hash(&mut hasher);
            }
            hasher.finish()
        });
        u128::from(high) << 64 | u128::from(low)
    }
}

impl Inner {
    fn keep(&mut self, key: u128, entry: Entry) {
        self.bytes += entry.size();
        if let Some(old) = self.entries.insert(key, entry) {
            self.bytes -= old.size();
        }
    }

    fn remove(&mut self, key: u128) {
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes -= entry.size();
        }
    }
}

/// How a version is written in delta responses.
pub(crate) fn version_text(version: u64) -> String {
    format!("{version:016x}")
}

pub(crate) fn parse_version(text: &str) -> Option<u64> {
    (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn encode(mode: Mode, resource_type: ResourceType, resources: &[Resource]) -> Bytes {
    let url = resource_type.url();
    let overhead = url.len() + 64;
    let size = resources.iter().map(|r| r.body.len() + r.name.len() + overhead).sum();
    let mut out = BytesMut::with_capacity(size);
    for resource in resources {
        let any_len = string_len(1, url) + string_len_of(2, resource.body.len());
        match mode {
            Mode::Sotw => {
                put_len(&mut out, RESOURCES, any_len);
                put_any(&mut out, url, resource);
            }
            Mode::Delta => {
                let version = version_text(resource.version);
                let any_field = string_len_of(2, any_len);
                put_len(
                    &mut out,
                    RESOURCES,
                    string_len(1, &version) + any_field + string_len(3, &resource.name),
                );
                put_string(&mut out, 1, &version);
                put_len(&mut out, 2, any_len);
                put_any(&mut out, url, resource);
                put_string(&mut out, 3, &resource.name);
            }
        }
    }
    out.freeze()
}

/// The fields of a response that belong to one stream; the payload follows them.
pub(crate) fn head(resource_type: ResourceType, version: u64, nonce: &str, removed: &[Arc<str>]) -> Bytes {
    let mut out = BytesMut::with_capacity(128 + removed.iter().map(|name| name.len() + 4).sum::<usize>());
    put_string(&mut out, VERSION, &version_text(version));
    put_string(&mut out, TYPE_URL, resource_type.url());
    put_string(&mut out, NONCE, nonce);
    for name in removed {
        put_string(&mut out, REMOVED, name);
    }
    out.freeze()
}

/// The last string in a field of an encoded message; `None` where there is none or the bytes cannot be read.
pub(crate) fn string_field(mut bytes: &[u8], number: u32) -> Option<&str> {
    let mut found = None;
    while !bytes.is_empty() {
        let tag = take_varint(&mut bytes)?;
        let length = match tag & 7 {
            0 => take_varint(&mut bytes).map(|_| 0)?,
            1 => 8,
            5 => 4,
            2 => usize::try_from(take_varint(&mut bytes)?).ok()?,
            _ => return None,
        };
        let (value, rest) = bytes.split_at_checked(length)?;
        if tag == u64::from(number << 3 | 2) {
            found = Some(value);
        }
        bytes = rest;
    }
    std::str::from_utf8(found?).ok()
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn put_any(out: &mut BytesMut, url: &str, resource: &Resource) {
    put_string(out, 1, url);
    put_len(out, 2, resource.body.len());
    out.put_slice(&resource.body);
}

fn put_string(out: &mut BytesMut, number: u32, text: &str) {
    put_len(out, number, text.len());
    out.put_slice(text.as_bytes());
}

fn put_len(out: &mut BytesMut, number: u32, len: usize) {
    put_varint(out, u64::from(number << 3 | 2));
    put_varint(out, len as u64);
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn string_len(number: u32, text: &str) -> usize {
    string_len_of(number, text.len())
}

fn string_len_of(number: u32, len: usize) -> usize {
    varint_len(u64::from(number << 3 | 2)) + varint_len(len as u64) + len
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::pb::envoy::service::discovery::v3 as pb;

    use super::*;

    fn resource(name: &str, version: u64, len: usize) -> Resource {
        Resource { name: name.into(), version, body: Bytes::from(vec![7; len]) }
    }

    #[test]
    fn head_and_payload_read_as_one_response() {
        let payloads = Payloads::new(1 << 20);
        let resources = [resource("a", 1, 0), resource("outbound|80||b", 0xabc, 300)];
        let t = ResourceType::Cluster;
        let removed: [Arc<str>; 1] = ["gone".into()];
        let delta = payloads.get(Mode::Delta, t, [&resources[..]], Instant::now());
        let bytes = [&[head(t, 5, "n1", &removed)][..], delta.parts.as_slice()].concat().concat();
        let response = pb::DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap();
        assert_eq!((response.nonce.as_str(), response.type_url.as_str()), ("n1", t.url()));
        assert_eq!(response.removed_resources, ["gone"]);
        assert_eq!(response.resources[1].name, "outbound|80||b");
        assert_eq!(parse_version(&response.resources[1].version), Some(0xabc));
        let any = response.resources[1].resource.as_ref().unwrap();
        assert_eq!((any.type_url.as_str(), any.value.len()), (t.url(), 300));
        let sotw = payloads.get(Mode::Sotw, t, [&resources[..]], Instant::now());
        let bytes = [&[head(t, 5, "n2", &[])][..], sotw.parts.as_slice()].concat().concat();
        let response = pb::DiscoveryResponse::decode(bytes.as_slice()).unwrap();
        assert_eq!((response.resources.len(), response.nonce.as_str()), (2, "n2"));
        assert_eq!(response.resources[1].value.len(), 300);
    }

    #[test]
    fn payloads_are_shared_bounded_and_forgotten() {
        let payloads = Payloads::new(800);
        let start = Instant::now();
        let get = |version, at| {
            let resources = [resource("a", version, 400)];
            let at = start + Duration::from_secs(at);
            payloads.get(Mode::Delta, ResourceType::Endpoint, [&resources[..]], at)
        };
        get(1, 0);
        assert!(payloads.lock().bytes < 400, "what one client has is not kept for others");
        let second = get(1, 1);
        assert_eq!(get(1, 2).parts[0].as_ptr(), second.parts[0].as_ptr());
        get(2, 3);
        get(2, 4);
        assert_eq!(payloads.lock().entries.len(), 1, "two do not fit in the bound");
        payloads.forget(Duration::from_secs(10), start + Duration::from_secs(20));
        let inner = payloads.lock();
        assert_eq!((inner.entries.len(), inner.bytes), (0, 0));
    }

    #[test]
    fn who_differs_in_one_resource_shares_the_other_parts() {
        let payloads = Payloads::new(1 << 20);
        let mut resources: Vec<_> = (0..500).map(|n| resource(&format!("r{n:03}"), n * 7 + 1, 50)).collect();
        let get = |of: &[Resource]| payloads.get(Mode::Delta, ResourceType::Cluster, [of], Instant::now());
        get(&resources);
        let one = get(&resources);
        resources.insert(100, resource("r099-own", 5, 50));
        let other = get(&resources);
        let shared = |part: &&Bytes| one.parts.iter().any(|known| known.as_ptr() == part.as_ptr());
        assert!(one.parts.len() > 20 && one.id != other.id);
        assert_eq!(other.parts.iter().filter(shared).count(), other.parts.len() - 1);
        assert_eq!(get(&resources).id, other.id);
    }

    #[test]
    fn who_shares_a_layer_shares_all_of_its_parts() {
        let payloads = Payloads::new(1 << 20);
        let common: Vec<_> = (0..100).map(|n| resource(&format!("r{n:03}"), n * 7 + 1, 50)).collect();
        let get = |own: &[Resource]| {
            let layers = [common.as_slice(), own];
            payloads.get(Mode::Delta, ResourceType::Cluster, layers, Instant::now())
        };
        // By its name it would stand in the midst of the others.
        let own = |version| [resource("r050-own", version, 50)];
        let [_, one, other] = [1, 2, 3].map(|version| get(&own(version)));
        let last = one.parts.len() - 1;
        for (at, (a, b)) in one.parts.iter().zip(&other.parts).enumerate() {
            assert_eq!(a.as_ptr() == b.as_ptr(), at < last, "part {at} of {last}");
        }
    }
}
