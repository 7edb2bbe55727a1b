//! The PROXY protocol's header, versions 1 and 2, on receipt.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncReadExt;

use crate::net::Io;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const MAX_V1: usize = 107;
const MAX_V2: usize = 16 + 4096;
const WITHIN: Duration = Duration::from_secs(15);

/// Source and destination; nothing for local connections and unknown families.
type Addresses = Option<(SocketAddr, SocketAddr)>;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    NeedMore,
    Absent,
    Header(Addresses, usize),
    Bad,
}

/// Reads the header off the front. An error means that the connection is to be closed.
pub async fn read(io: &mut Io, buffer: &mut BytesMut, optional: bool) -> Result<Addresses, ()> {
    let read = async {
        loop {
            match parse(buffer) {
                Parsed::Header(addresses, length) => {
                    buffer.advance(length);
                    return Ok(addresses);
                }
                Parsed::Absent if optional => return Ok(None),
                Parsed::Absent | Parsed::Bad => return Err(()),
                Parsed::NeedMore => match io.read_buf(buffer).await {
                    Ok(n) if n > 0 => {}
                    _ => return Err(()),
                },
            }
        }
    };
    tokio::time::timeout(WITHIN, read).await.unwrap_or(Err(()))
}

pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    let starts = |with: &[u8]| {
        if bytes.len() < with.len() { with.starts_with(bytes) } else { bytes.starts_with(with) }
    };
    if starts(SIGNATURE) {
        version2(bytes)
    } else if starts(b"PROXY ") {
        version1(bytes)
    } else {
        Parsed::Absent
    }
}

fn version1(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") else {
        return if bytes.len() >= MAX_V1 { Parsed::Bad } else { Parsed::NeedMore };
    };
    let Ok(line) = std::str::from_utf8(&bytes[..end]) else { return Parsed::Bad };
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Parsed::Header(None, end + 2),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, from, to] => {
            let read = || -> Option<(SocketAddr, SocketAddr)> {
                let (source, destination): (IpAddr, IpAddr) =
                    (source.parse().ok()?, destination.parse().ok()?);
                let right =
                    source.is_ipv4() == (*family == "TCP4") && destination.is_ipv4() == source.is_ipv4();
                right.then_some(())?;
                Some((
                    SocketAddr::new(source, from.parse().ok()?),
                    SocketAddr::new(destination, to.parse().ok()?),
                ))
            };
            read().map_or(Parsed::Bad, |pair| Parsed::Header(Some(pair), end + 2))
        }
        _ => Parsed::Bad,
    }
}

fn version2(bytes: &[u8]) -> Parsed {
    let Some(header) = bytes.get(..16) else { return Parsed::NeedMore };
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    let total = 16 + length;
    if header[12] >> 4 != 2 || total > MAX_V2 {
        return Parsed::Bad;
    }
    let Some(body) = bytes.get(16..total) else { return Parsed::NeedMore };
    match (header[12] & 0xf, header[13]) {
        (0, _) => Parsed::Header(None, total),
        (1, 0x11) => match body.first_chunk::<12>() {
            Some(b) => {
                let ip = |i: usize| IpAddr::V4(Ipv4Addr::new(b[i], b[i + 1], b[i + 2], b[i + 3]));
                let port = |i: usize| u16::from_be_bytes([b[i], b[i + 1]]);
                Parsed::Header(
                    Some((SocketAddr::new(ip(0), port(8)), SocketAddr::new(ip(4), port(10)))),
                    total,
                )
            }
            None => Parsed::Bad,
        },
        (1, 0x21) => match body.first_chunk::<36>() {
            Some(b) => {
                let ip = |i: usize| {
                    let mut octets = [0; 16];
                    octets.copy_from_slice(&b[i..i + 16]);
                    IpAddr::V6(Ipv6Addr::from(octets))
                };
                let port = |i: usize| u16::from_be_bytes([b[i], b[i + 1]]);
                Parsed::Header(
                    Some((SocketAddr::new(ip(0), port(32)), SocketAddr::new(ip(16), port(34)))),
                    total,
                )
            }
            None => Parsed::Bad,
        },
        (1, _) => Parsed::Header(None, total),
        _ => Parsed::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read_and_nonsense_is_refused() {
        let pair = Some(("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:80".parse().unwrap()));
        let v1 = b"PROXY TCP4 10.0.0.1 10.0.0.2 1000 80\r\nGET";
        assert_eq!(parse(v1), Parsed::Header(pair, v1.len() - 3));
        let mut v2 = SIGNATURE.to_vec();
        v2.extend_from_slice(&[0x21, 0x11, 0, 12, 10, 0, 0, 1, 10, 0, 0, 2, 0x03, 0xe8, 0, 80]);
        assert_eq!(parse(&v2), Parsed::Header(pair, v2.len()));
        for n in 0..v2.len() {
            assert_eq!(parse(&v2[..n]), Parsed::NeedMore, "{n}");
        }
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Parsed::Absent);
        for bad in [&b"PROXY TCP4 10.0.0.1 ::1 1 2\r\n"[..], b"PROXY TCP4 1 2 3 4\r\n", b"PROXY X\r\n"] {
            assert_eq!(parse(bad), Parsed::Bad, "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
