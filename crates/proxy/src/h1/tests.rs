//! The smuggling table: what may be read in two ways is read in none.

use bytes::{Bytes, BytesMut};

use super::*;

fn parse(text: &[u8]) -> Result<(RawHead<RequestLine>, Framing, BytesMut), ParseError> {
    let limits = HeadLimits::default();
    let mut buffer = BytesMut::from(text);
    let end = HeadScanner::default().scan(&buffer, &limits)?.ok_or(ParseError::Malformed)?;
    let head = RawHead::<RequestLine>::request(&mut buffer, end, &limits)?;
    head.host()?;
    let framing = head.framing()?;
    Ok((head, framing, buffer))
}

#[test]
fn heads_that_two_readers_could_understand_differently_are_refused() {
    use ParseError::*;
    for (text, expected) in [
        (&b"GET / HTTP/1.1\nHost: a\n\n"[..], BareLineFeed),
        (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", BareLineFeed),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", LengthAndEncoding),
        (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: \r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n", Length),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", Encoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Encoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", Encoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", Encoding),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", Encoding),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", EncodingNotAllowed),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Host),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", Malformed),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Malformed),
        (b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", Malformed),
        (b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n", Characters),
        (b"GET / HTTP/1.1\r\nX\0: a\r\n\r\n", Characters),
        (b"GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", Malformed),
        (b"GET / HTTP/1.1\r\nX(: a\r\n\r\n", Malformed),
        (b"GET / HTTP/1.1\r\n: a\r\n\r\n", Malformed),
        (b"GET  / HTTP/1.1\r\n\r\n", Malformed),
        (b"G(T / HTTP/1.1\r\n\r\n", Malformed),
        (b"GET /\x80 HTTP/1.1\r\n\r\n", Malformed),
        (b"GET /a b HTTP/1.1\r\n\r\n", Malformed),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: identity\r\n\r\n", LengthAndEncoding),
        (b"GET /a\rb HTTP/1.1\r\n\r\n", Malformed),
        (b"GET /\r\n\r\n", Version),
        (b"GET / HTTP/2.0\r\n\r\n", Version),
        (b"GET / HTTP/1.2\r\n\r\n", Version),
    ] {
        let got = parse(text).map(|(_, f, _)| f);
        assert_eq!(got, Err(expected), "{:?}", String::from_utf8_lossy(text));
    }
}

#[test]
fn heads_are_limited_in_size_and_number() {
    let limits = HeadLimits::default();
    let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'a'; limits.bytes]].concat();
    assert_eq!(HeadScanner::default().scan(&long, &limits), Err(ParseError::HeadTooLarge));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101));
    assert_eq!(parse(many.as_bytes()).map(|_| ()), Err(ParseError::TooManyHeaders));
    let allowed = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100));
    assert!(parse(allowed.as_bytes()).is_ok());
}

#[test]
fn a_head_arrives_in_any_pieces() {
    let text = b"GET /x HTTP/1.1\r\nHost: a\r\nX-Y: z\r\n\r\nrest";
    let (mut scanner, limits) = (HeadScanner::default(), HeadLimits::default());
    let end = text.len() - 4;
    for n in 0..end {
        assert_eq!(scanner.scan(&text[..n], &limits), Ok(None), "{n}");
    }
    assert_eq!(scanner.scan(&text[..end], &limits), Ok(Some(end)));
    let (head, framing, rest) = parse(text).unwrap();
    assert_eq!(framing, Framing::None);
    assert_eq!(&rest[..], b"rest");
    let all: Vec<_> = head.iter().collect();
    assert_eq!(all[1], (Bytes::from_static(b"x-y"), Bytes::from_static(b"z")));
}

fn read_body(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<(Bytes, Bytes)>, bool), ParseError> {
    let mut decoder = BodyDecoder::new(framing, HeadLimits::default());
    let (mut buffer, mut body, mut trailers) = (BytesMut::new(), Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer)? {
                BodyEvent::Pending => break,
                BodyEvent::Data(data) => body.extend_from_slice(&data),
                BodyEvent::Trailers(t) => trailers = t,
                BodyEvent::End => break,
            }
        }
    }
    Ok((body, trailers, decoder.is_done()))
}

#[test]
fn chunks_are_read_in_any_pieces_with_trailers() {
    let text = b"5;ext=1\r\nhello\r\n00a\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n";
    let whole = read_body(Framing::Chunked, &[text]).unwrap();
    let single: Vec<&[u8]> = text.chunks(1).collect();
    let bytewise = read_body(Framing::Chunked, &single).unwrap();
    for (body, trailers, done) in [whole, bytewise] {
        assert_eq!(body, b"hello0123456789");
        assert_eq!(trailers, [(Bytes::from_static(b"x-sum"), Bytes::from_static(b"1"))]);
        assert!(done);
    }
}

#[test]
fn bad_chunks_are_refused() {
    use ParseError::*;
    for (text, expected) in [
        (&b"+5\r\nhello\r\n"[..], ChunkSize),
        (b"-5\r\nhello\r\n", ChunkSize),
        (b"0x5\r\nhello\r\n", ChunkSize),
        (b" 5\r\nhello\r\n", ChunkSize),
        (b"5 \r\nhello\r\n", ChunkSize),
        (b"5\nhello\r\n", ChunkSize),
        (b"\r\nhello\r\n", ChunkSize),
        (b"g\r\n", ChunkSize),
        (b"5;a\0b\r\nhello\r\n", ChunkSize),
        (b"10000000000000000\r\n", ChunkSize),
        (b"5\r\nhelloX\r\n", ChunkFraming),
        (b"5\r\nhello\n", ChunkFraming),
        (b"0\r\nX: y\n\r\n", BareLineFeed),
        (b"0\r\nX : y\r\n\r\n", Trailers),
    ] {
        let got = read_body(Framing::Chunked, &[text]).map(|_| ());
        assert_eq!(got, Err(expected), "{:?}", String::from_utf8_lossy(text));
    }
    // Who reads on what was no body is told so again.
    let mut decoder = BodyDecoder::new(Framing::Chunked, HeadLimits::default());
    let mut buffer = BytesMut::from(&b"0\r\nbad trailer\r\n\r\n"[..]);
    for _ in 0..3 {
        assert_eq!(decoder.decode(&mut buffer).map(|_| ()), Err(Trailers));
        assert!(!decoder.is_done());
    }
    let long = [b"1;".as_slice(), &[b'a'; 300]].concat();
    assert_eq!(read_body(Framing::Chunked, &[&long]).map(|_| ()), Err(ChunkSize));
}

#[test]
fn what_is_encoded_is_decoded_again() {
    let mut out = BytesMut::new();
    let encoder = Encoder::new(Framing::Chunked);
    for piece in [&b"a"[..], &[7u8; 70_000], b"0\r\n\r\n"] {
        encoder.before(piece.len(), &mut out);
        out.extend_from_slice(piece);
        encoder.after(&mut out);
    }
    encoder.end([(&b"t"[..], &b"v"[..])].into_iter(), &mut out);
    let (body, trailers, done) = read_body(Framing::Chunked, &[&out]).unwrap();
    assert_eq!(body.len(), 70_006);
    assert_eq!(trailers.len(), 1);
    assert!(done);
}
