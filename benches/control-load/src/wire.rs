//! Reads of a response only what a client needs to acknowledge it. Nothing is decoded or copied but short texts: the
//! sidecars share two cores with the control plane that is measured.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost::encoding::decode_varint;

/// What is read of a response.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) type_url: String,
    pub(crate) nonce: String,
    pub(crate) version: String,
    pub(crate) resources: usize,
    /// The resources' names, for who asked for them.
    pub(crate) names: Vec<String>,
    /// Bytes of the whole message.
    pub(crate) bytes: usize,
}

/// The messages of a stream.
pub(crate) struct Messages {
    body: Incoming,
    chunks: Chunks,
}

impl Messages {
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body, chunks: Chunks::default() }
    }

    /// The next message, or `None` when the stream has ended. Its resources' names are read if they are wanted.
    pub(crate) async fn next(
        &mut self,
        delta: bool,
        names: impl Fn(&Head) -> bool,
    ) -> anyhow::Result<Option<Head>> {
        while self.chunks.message().is_none_or(|length| self.chunks.remaining < 5 + length) {
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame?.into_data() {
                self.chunks.push(data);
            }
        }
        self.chunks.advance(1);
        let length = self.chunks.get_u32() as usize;
        let wanted = |head: &Head| names(head);
        read(&mut self.chunks, length, delta, wanted).map(Some)
    }
}

/// What has arrived and was not read.
#[derive(Debug, Default)]
struct Chunks {
    chunks: VecDeque<Bytes>,
    remaining: usize,
}

impl Chunks {
    fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.remaining += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// The length of the message that begins here, as far as is known.
    fn message(&self) -> Option<usize> {
        let mut head = self.chunks.iter().flatten().skip(1).copied();
        let bytes = [head.next()?, head.next()?, head.next()?, head.next()?];
        Some(u32::from_be_bytes(bytes) as usize)
    }

    fn text(&mut self, length: usize) -> anyhow::Result<String> {
        Ok(String::from_utf8(self.copy_to_bytes(length).to_vec())?)
    }
}

impl Buf for Chunks {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |chunk| chunk)
    }

    fn advance(&mut self, mut count: usize) {
        self.remaining -= count;
        while let Some(first) = self.chunks.front_mut() {
            if first.len() > count {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.chunks.pop_front();
        }
    }
}

fn read(
    from: &mut Chunks,
    length: usize,
    delta: bool,
    wanted: impl Fn(&Head) -> bool,
) -> anyhow::Result<Head> {
    let end = from.remaining.checked_sub(length).ok_or_else(short)?;
    let mut head = Head { bytes: length, ..Head::default() };
    while let Some((number, length)) = field(from, end)? {
        match number {
            1 => head.version = from.text(length)?,
            4 => head.type_url = from.text(length)?,
            5 => head.nonce = from.text(length)?,
            2 => {
                head.resources += 1;
                let after = from.remaining - length;
                if wanted(&head) {
                    // In delta the name stands beside the resource, else it is the first field inside of it.
                    let path: &[u64] = if delta { &[3] } else { &[2, 1] };
                    head.names.push(text_at(from, after, path)?);
                }
                from.advance(from.remaining - after);
            }
            _ => from.advance(length),
        }
    }
    Ok(head)
}

/// The text at a path of field numbers.
fn text_at(from: &mut Chunks, end: usize, path: &[u64]) -> anyhow::Result<String> {
    while let Some((number, length)) = field(from, end)? {
        match path {
            [last] if number == *last => return from.text(length),
            [first, rest @ ..] if number == *first => return text_at(from, from.remaining - length, rest),
            _ => from.advance(length),
        }
    }
    anyhow::bail!("a resource has no name")
}

/// The next field that has a length, unless the message ends: when so many bytes remain.
fn field(from: &mut Chunks, end: usize) -> anyhow::Result<Option<(u64, usize)>> {
    while from.remaining > end {
        let tag = decode_varint(from)?;
        let length = match tag & 7 {
            0 => {
                decode_varint(from)?;
                continue;
            }
            1 => 8,
            5 => 4,
            _ => usize::try_from(decode_varint(from)?)?,
        };
        if from.remaining.checked_sub(length).is_none_or(|left| left < end) {
            return Err(short());
        }
        if tag & 7 == 2 {
            return Ok(Some((tag >> 3, length)));
        }
        from.advance(length);
    }
    Ok(None)
}

fn short() -> anyhow::Error {
    anyhow::anyhow!("a response ends too early")
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::pb::envoy::service::discovery::v3 as pb;
    use proto::pb::google::protobuf::Any;

    use super::*;

    fn chunks(bytes: &[u8]) -> Chunks {
        let mut chunks = Chunks::default();
        bytes.chunks(3).for_each(|chunk| chunks.push(Bytes::copy_from_slice(chunk)));
        chunks
    }

    #[test]
    fn heads_are_read_wherever_frames_are_cut() {
        let cluster = proto::pb::envoy::config::cluster::v3::Cluster {
            name: "outbound|80||a".into(),
            ..Default::default()
        };
        let any = Any { type_url: "type.googleapis.com/cluster".into(), value: cluster.encode_to_vec() };
        let delta = pb::DeltaDiscoveryResponse {
            resources: vec![pb::Resource {
                name: "outbound|80||a".into(),
                resource: Some(any.clone()),
                ..Default::default()
            }],
            type_url: "t".into(),
            nonce: "7".into(),
            ..Default::default()
        };
        let sotw = pb::DiscoveryResponse {
            version_info: "v".into(),
            resources: vec![any],
            type_url: "t".into(),
            nonce: "7".into(),
            ..Default::default()
        };
        for (bytes, is_delta, version) in
            [(delta.encode_to_vec(), true, ""), (sotw.encode_to_vec(), false, "v")]
        {
            // What follows belongs to the next message.
            let mut from = chunks(&[bytes.as_slice(), b"next"].concat());
            let head = read(&mut from, bytes.len(), is_delta, |_| true).unwrap();
            assert_eq!(
                (head.type_url.as_str(), head.nonce.as_str(), head.version.as_str()),
                ("t", "7", version)
            );
            assert_eq!((head.names.as_slice(), from.remaining), (&["outbound|80||a".to_owned()][..], 4));
        }
        assert!(read(&mut chunks(&[0x0a, 9, 1]), 3, true, |_| true).is_err());
    }
}
