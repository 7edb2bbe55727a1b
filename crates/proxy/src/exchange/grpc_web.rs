//! gRPC-Web on the wire: base64 on the way in, and messages, their trailers as the last of them, on the way out. Nothing is
//! held back but what does not fill a group of base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use decide::{Headers, LocalReply};

use super::flow::Fault;

/// Base64, in groups of four characters.
#[derive(Default)]
pub struct FromText {
    rest: Vec<u8>,
}

fn bad(details: &'static str) -> Fault {
    LocalReply::new(400, "Bad gRPC-web request, invalid base64 data.", details).into()
}

impl FromText {
    pub fn decode(&mut self, data: &[u8]) -> Result<Bytes, Fault> {
        self.rest.extend_from_slice(data);
        let whole = self.rest.len() / 4 * 4;
        let decoded = STANDARD.decode(&self.rest[..whole]).map_err(|_| bad("grpc_base_64_decode_failed"))?;
        self.rest.drain(..whole);
        Ok(decoded.into())
    }

    pub fn finish(&mut self) -> Result<(), Fault> {
        if self.rest.is_empty() { Ok(()) } else { Err(bad("grpc_base_64_decode_failed_bad_size")) }
    }
}

/// gRPC as gRPC-Web has it.
pub struct ToWeb {
    text: Option<ToText>,
}

/// Base64 that is padded at the end of every message.
#[derive(Default)]
struct ToText {
    /// Less than three bytes, which are not said yet.
    rest: Vec<u8>,
    /// Of the current message: how much of its head came, and what is missing of its body.
    head: [u8; 5],
    have: usize,
    left: u64,
}

/// Marks the frame that holds the trailers.
const TRAILERS: u8 = 0x80;

impl ToWeb {
    pub fn new(text: bool) -> Self {
        Self { text: text.then(ToText::default) }
    }

    pub fn message(&mut self, data: Bytes) -> Bytes {
        match &mut self.text {
            None => data,
            Some(text) => text.encode(&data),
        }
    }

    pub fn trailers(&mut self, trailers: &Headers) -> Bytes {
        let mut lines = BytesMut::new();
        for (name, value) in trailers.iter() {
            lines.put_slice(&name.as_bytes().to_ascii_lowercase());
            lines.put_u8(b':');
            lines.put_slice(value);
            lines.put_slice(b"\r\n");
        }
        let mut frame = BytesMut::with_capacity(5 + lines.len());
        frame.put_u8(TRAILERS);
        frame.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
        frame.put_slice(&lines);
        match self.text {
            None => frame.freeze(),
            Some(_) => STANDARD.encode(frame).into(),
        }
    }

    /// What is left of a message that broke off.
    pub fn rest(&mut self) -> Bytes {
        self.text.as_mut().map(|text| text.end()).unwrap_or_default().into()
    }
}

impl ToText {
    fn encode(&mut self, mut data: &[u8]) -> Bytes {
        let mut out = String::with_capacity(data.len() / 3 * 4 + 8);
        while !data.is_empty() {
            let take = match self.left {
                0 => (5 - self.have).min(data.len()),
                left => usize::try_from(left).unwrap_or(usize::MAX).min(data.len()),
            };
            let (piece, after) = data.split_at(take);
            data = after;
            if self.left == 0 {
                self.head[self.have..self.have + take].copy_from_slice(piece);
                self.have += take;
                if self.have == 5 {
                    self.left = u64::from(u32::from_be_bytes([
                        self.head[1],
                        self.head[2],
                        self.head[3],
                        self.head[4],
                    ]));
                }
            } else {
                self.left -= take as u64;
            }
            self.rest.extend_from_slice(piece);
            if self.have == 5 && self.left == 0 {
                self.have = 0;
                out.push_str(&self.end());
            }
        }
        let whole = self.rest.len() / 3 * 3;
        STANDARD.encode_string(&self.rest[..whole], &mut out);
        self.rest.drain(..whole);
        out.into()
    }

    fn end(&mut self) -> String {
        STANDARD.encode(std::mem::take(&mut self.rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_decodes_however_it_is_cut() {
        let text = STANDARD.encode("a message of gRPC's, of some length");
        for size in [1, 2, 3, 4, 5, 7, 100] {
            let mut from = FromText::default();
            let out: Vec<u8> = text.as_bytes().chunks(size).flat_map(|c| from.decode(c).unwrap()).collect();
            assert_eq!(out, b"a message of gRPC's, of some length", "pieces of {size}");
            assert!(from.finish().is_ok());
        }
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for (text, expected) in [
            ("!!!!", "grpc_base_64_decode_failed"),
            ("YQ==YQ==", "grpc_base_64_decode_failed"),
            ("YR==", "grpc_base_64_decode_failed"),
            ("YWJjZ", "grpc_base_64_decode_failed_bad_size"),
            ("Y", "grpc_base_64_decode_failed_bad_size"),
        ] {
            let mut from = FromText::default();
            let fault = from.decode(text.as_bytes()).and_then(|_| from.finish()).unwrap_err();
            let Fault::Reply(reply) = fault else { panic!() };
            assert_eq!((&*reply.0.details, reply.0.status), (expected, 400), "{text}");
        }
    }

    #[test]
    fn every_message_is_base64_of_its_own_however_it_is_cut() {
        let message = |n: u8| [&[0, 0, 0, 0, n][..], &vec![b'x'; n.into()]].concat();
        let messages: Vec<Vec<u8>> = [0, 1, 2, 3, 100].map(message).into();
        let expected: String = messages.iter().map(|m| STANDARD.encode(m)).collect();
        let wire = messages.concat();
        for size in [1, 2, 3, 5, 8, 1000] {
            let mut to = ToWeb::new(true);
            let pieces = wire.chunks(size).map(|c| to.message(Bytes::copy_from_slice(c)));
            let out: Vec<u8> = pieces.flat_map(|b| b.to_vec()).collect();
            assert_eq!(String::from_utf8(out).unwrap(), expected, "pieces of {size}");
        }
    }

    #[test]
    fn trailers_are_the_last_message() {
        let trailers: Headers =
            [("Grpc-Status", "0".to_owned()), ("x", "y".to_owned())].into_iter().collect();
        let frame = ToWeb::new(false).trailers(&trailers);
        assert_eq!(&frame[..], b"\x80\0\0\0\x14grpc-status:0\r\nx:y\r\n");
        assert_eq!(ToWeb::new(true).trailers(&trailers), STANDARD.encode(&frame));
    }
}
