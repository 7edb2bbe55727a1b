//! Istio's exchange of peer metadata over TCP (`istio-peer-exchange`): each side first says who it is.
//!
//! The magic 0x3D230467, a big-endian length, and an `Any` of a `Struct` with `x-envoy-peer-metadata` and
//! `x-envoy-peer-metadata-id`. Neither side waits for the other: servers may speak first.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use decide::PeerMetadata;
use prost::Message;
use proto::pb::google::protobuf::{Any, Struct, Value, value::Kind};

use crate::tcp::Peel;

pub const ALPN: &[u8] = b"istio-peer-exchange";
const MAGIC: u32 = 0x3D23_0467;
/// Metadata that is longer is not believed.
const MAX: usize = 64 * 1024;
const METADATA: &str = "x-envoy-peer-metadata";
const ID: &str = "x-envoy-peer-metadata-id";

/// What we say of ourselves.
pub fn exchange_peers(node: &PeerMetadata) -> Bytes {
    let value = |kind| Value { kind: Some(kind) };
    let fields = [
        (METADATA.to_owned(), value(Kind::StructValue(node.to_struct()))),
        (ID.to_owned(), value(Kind::StringValue(node.id.clone()))),
    ];
    let message = Struct { fields: fields.into_iter().collect() };
    let any =
        Any { type_url: "type.googleapis.com/google.protobuf.Struct".into(), value: message.encode_to_vec() };
    let body = any.encode_to_vec();
    let mut out = BytesMut::with_capacity(8 + body.len());
    out.put_u32(MAGIC);
    out.put_u32(body.len() as u32);
    out.put_slice(&body);
    out.freeze()
}

/// Who the peer says it is, from the moment that it has spoken; nobody if it began otherwise.
pub type Said = Rc<OnceCell<Option<Arc<PeerMetadata>>>>;

/// Takes the peer's metadata off the front of what it sends.
#[derive(Debug, Default)]
pub struct PeerExchange {
    pub said: Said,
}

impl Peel for PeerExchange {
    fn peel(&mut self, buffer: &mut BytesMut) -> bool {
        if self.said.get().is_some() {
            return true;
        }
        let Some(peer) = take(buffer) else { return false };
        self.said.get_or_init(|| peer.map(Arc::new));
        true
    }
}

/// The metadata at the front, if it is some; nothing while more is needed to tell.
fn take(buffer: &mut BytesMut) -> Option<Option<PeerMetadata>> {
    let magic = MAGIC.to_be_bytes();
    let shared = buffer.len().min(4);
    if buffer[..shared] != magic[..shared] {
        return Some(None);
    }
    let header = buffer.first_chunk::<8>()?;
    let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if length > MAX {
        return Some(None);
    }
    let peer = read(buffer.get(8..8 + length)?);
    buffer.advance(8 + length);
    Some(peer)
}

fn read(bytes: &[u8]) -> Option<PeerMetadata> {
    let any = Any::decode(bytes).ok()?;
    let mut outer = Struct::decode(any.value.as_slice()).ok()?;
    let id = match outer.fields.remove(ID)?.kind? {
        Kind::StringValue(id) => id,
        _ => return None,
    };
    match outer.fields.remove(METADATA)?.kind? {
        Kind::StructValue(fields) => Some(PeerMetadata::from_struct(&fields, &id)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_says_the_other_takes_off_in_any_pieces() {
        let node = PeerMetadata {
            id: "sidecar~1".into(),
            workload: "reviews-v1".into(),
            namespace: "default".into(),
            labels: vec![("app".into(), "reviews".into())],
            ..PeerMetadata::default()
        };
        let mut wire = exchange_peers(&node).to_vec();
        let head = wire.len();
        wire.extend_from_slice(b"payload");
        let (mut exchange, mut buffer) = (PeerExchange::default(), BytesMut::new());
        for (n, byte) in wire.iter().enumerate() {
            buffer.put_u8(*byte);
            if n + 1 < head {
                assert!(!exchange.peel(&mut buffer), "{n}");
            } else if n + 1 == head {
                assert!(exchange.peel(&mut buffer));
                assert!(buffer.is_empty());
            }
        }
        assert_eq!(&buffer[..], b"payload");
        assert_eq!(exchange.said.get().and_then(Option::as_deref), Some(&node));
        let mut again = BytesMut::from(&wire[..]);
        assert!(exchange.peel(&mut again) && again.len() == wire.len(), "payload was taken for a preamble");
        let mut other = BytesMut::from(&b"\x3D\x23\x04other"[..]);
        let mut silent = PeerExchange::default();
        assert!(silent.peel(&mut other));
        assert_eq!(silent.said.get(), Some(&None));
        assert_eq!(other.len(), 8);
    }
}
