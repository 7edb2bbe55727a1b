//! Reading a ClientHello without taking it: for passthrough by SNI and for choosing a filter chain by SNI and ALPN.
//!
//! Only the outer shape and two extensions are read; whether the handshake is sound is for whoever terminates it.

/// A hello longer than this is refused: 16 KiB is four times what post-quantum clients send.
const MAX_HELLO: usize = 16 * 1024;

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peek {
    /// TLS so far; look again when there is more.
    NeedMore,
    NotTls,
    Hello(ClientHello),
}

/// What a client asks for before anything is encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Lower case.
    pub sni: Option<String>,
    pub alpn: Vec<Vec<u8>>,
}

/// It began as TLS and is not: the connection should be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    #[error("the ClientHello is longer than {MAX_HELLO} bytes")]
    TooLong,
    #[error("the ClientHello is malformed")]
    Malformed,
}

/// Reads what a peer sent first. The bytes stay the caller's.
pub fn peek_client_hello(bytes: &[u8]) -> Result<Peek, HelloError> {
    if !starts_like_tls(bytes) {
        return Ok(Peek::NotTls);
    }
    let (message, complete) = reassemble(bytes)?;
    let Some((header, body)) = message.split_first_chunk::<4>() else {
        return if complete { Err(HelloError::Malformed) } else { Ok(Peek::NeedMore) };
    };
    let length = usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]);
    if header[0] != CLIENT_HELLO {
        return Err(HelloError::Malformed);
    }
    if length > MAX_HELLO {
        return Err(HelloError::TooLong);
    }
    match body.get(..length) {
        Some(hello) => parse(hello).map(Peek::Hello).ok_or(HelloError::Malformed),
        None => Ok(Peek::NeedMore),
    }
}

/// Handshake record, version 3.x: as many of the first three bytes as are there.
fn starts_like_tls(bytes: &[u8]) -> bool {
    let shape = |i: usize, b: u8| match i {
        0 => b == HANDSHAKE_RECORD,
        1 => b == 3,
        _ => b <= 4,
    };
    bytes.iter().take(3).enumerate().all(|(i, b)| shape(i, *b))
}

/// The handshake bytes of the records that are there so far, which may break the message anywhere; and whether the
/// bytes end with something that is no handshake record, so that no more can come.
fn reassemble(mut bytes: &[u8]) -> Result<(Vec<u8>, bool), HelloError> {
    let mut message = Vec::with_capacity(bytes.len());
    while let Some((header, rest)) = bytes.split_first_chunk::<5>() {
        if header[0] != HANDSHAKE_RECORD || header[1] != 3 {
            return Ok((message, true));
        }
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > MAX_HELLO + 2048 {
            return Err(HelloError::Malformed);
        }
        let there = rest.len().min(length);
        message.extend_from_slice(&rest[..there]);
        if message.len() > MAX_HELLO + 4 {
            // Enough to tell a hello that fits from one that does not: the length is in its first four bytes.
            break;
        }
        bytes = &rest[there..];
    }
    Ok((message, false))
}

fn parse(hello: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(hello);
    reader.take(2 + 32)?;
    reader.vector8()?;
    reader.vector16()?;
    reader.vector8()?;
    let mut found = ClientHello::default();
    if reader.0.is_empty() {
        return Some(found);
    }
    let mut extensions = Reader(reader.vector16()?);
    let (mut seen_name, mut seen_alpn) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let body = extensions.vector16()?;
        match kind {
            SERVER_NAME if !std::mem::replace(&mut seen_name, true) => found.sni = server_name(body)?,
            ALPN if !std::mem::replace(&mut seen_alpn, true) => found.alpn = protocols(body)?,
            // Twice the same extension is an attempt to be two things to two readers.
            SERVER_NAME | ALPN => return None,
            _ => {}
        }
    }
    Some(found)
}

fn server_name(body: &[u8]) -> Option<Option<String>> {
    let mut list = Reader(Reader(body).vector16()?);
    let kind = list.u8()?;
    let name = list.vector16()?;
    if kind != 0 {
        return Some(None);
    }
    let printable = |b: &u8| b.is_ascii_graphic();
    if name.is_empty() || name.len() > 255 || !name.iter().all(printable) || !list.0.is_empty() {
        return None;
    }
    Some(Some(String::from_utf8_lossy(name).to_ascii_lowercase()))
}

fn protocols(body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut list = Reader(Reader(body).vector16()?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector8()?;
        if name.is_empty() {
            return None;
        }
        protocols.push(name.to_vec());
    }
    Some(protocols)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let n = self.u8()?;
        self.take(usize::from(n))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let n = self.u16()?;
        self.take(usize::from(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello_bytes(sni: Option<&str>, alpn: &[&[u8]]) -> Vec<u8> {
        let mut options = crate::ClientOptions::new(crate::Verify::Nothing);
        options.sni = sni.map(str::to_owned);
        options.alpn = alpn.iter().map(|p| p.to_vec()).collect();
        let tls = crate::ClientTls::new(options).unwrap();
        let mut connection = rustls::ClientConnection::new(tls.config(), tls.server_name().clone()).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_real_hello_is_read_at_any_cut() {
        crate::install_provider();
        let sni = "outbound_.9080_._.reviews.default.svc.cluster.local";
        let bytes = hello_bytes(Some(sni), &[b"istio-peer-exchange", b"istio"]);
        let whole = ClientHello {
            sni: Some(sni.into()),
            alpn: vec![b"istio-peer-exchange".to_vec(), b"istio".to_vec()],
        };
        assert_eq!(peek_client_hello(&bytes), Ok(Peek::Hello(whole.clone())));
        for cut in 0..bytes.len() {
            assert_eq!(peek_client_hello(&bytes[..cut]), Ok(Peek::NeedMore), "cut at {cut}");
        }
        let (first, second) = bytes[5..].split_at(20);
        let mut split = Vec::new();
        for part in [first, second] {
            split.extend_from_slice(&[22, 3, 1]);
            split.extend_from_slice(&(part.len() as u16).to_be_bytes());
            split.extend_from_slice(part);
        }
        assert_eq!(peek_client_hello(&split), Ok(Peek::Hello(whole)));
    }

    #[test]
    fn a_hello_without_extensions_has_no_names() {
        crate::install_provider();
        assert_eq!(
            peek_client_hello(&hello_bytes(None, &[])),
            Ok(Peek::Hello(ClientHello { sni: None, alpn: vec![] }))
        );
    }

    #[test]
    fn what_is_not_tls_is_told_apart_at_the_first_byte() {
        for plain in [&b"GET / HTTP/1.1\r\n"[..], b"P", b"\0\0", b"\x16\x04", b"\x16\x03\x09"] {
            assert_eq!(peek_client_hello(plain), Ok(Peek::NotTls), "{plain:?}");
        }
        assert_eq!(peek_client_hello(b""), Ok(Peek::NeedMore));
    }

    #[test]
    fn an_endless_or_wrong_hello_is_refused() {
        let endless = [22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
        assert_eq!(peek_client_hello(&endless), Err(HelloError::TooLong));
        assert_eq!(peek_client_hello(&[22, 3, 1, 0, 4, 2, 0, 0, 0]), Err(HelloError::Malformed));
        assert_eq!(peek_client_hello(&[22, 3, 1, 0, 0]), Err(HelloError::Malformed));
        assert_eq!(peek_client_hello(&[22, 3, 1, 0, 6, 1, 0, 0, 2, 3, 3]), Err(HelloError::Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = peek_client_hello(&bytes);
            let mut framed = vec![22, 3, 1, 0, bytes.len().min(255) as u8, 1, 0, 0, bytes.len().min(251) as u8];
            framed.extend_from_slice(&bytes);
            let _ = peek_client_hello(&framed);
        }
    }
}
