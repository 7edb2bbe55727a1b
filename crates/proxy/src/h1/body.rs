//! Reading a message's body: by length, in chunks, or until the connection ends.

use bytes::{Bytes, BytesMut};

use super::head::{Framing, HeadLimits, HeadScanner, ParseError};

/// Reads one body out of the bytes of its connection.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    limits: HeadLimits,
}

#[derive(Debug)]
enum State {
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers(HeadScanner),
    UntilClose,
    Done,
    /// What comes is no body any more, however often it is asked for.
    Bad(ParseError),
}

/// What came next of a body.
#[derive(Debug)]
pub enum BodyEvent {
    /// More bytes are needed.
    Pending,
    Data(Bytes),
    /// Trailers, in order, names in lower case; then the body is over.
    Trailers(Vec<(Bytes, Bytes)>),
    End,
}

/// A chunk's size line with its extension; who sends more is up to no good.
const MAX_CHUNK_LINE: usize = 256;

impl BodyDecoder {
    pub fn new(framing: Framing, limits: HeadLimits) -> Self {
        let state = match framing {
            Framing::None => State::Done,
            Framing::Length(0) => State::Done,
            Framing::Length(n) => State::Length(n),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, limits }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether the end of the connection ends this body rather than breaking it.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.state, State::UntilClose)
    }

    /// The next piece that the buffer holds. After an error there is nothing else.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<BodyEvent, ParseError> {
        self.next(buffer).inspect_err(|error| self.state = State::Bad(*error))
    }

    fn next(&mut self, buffer: &mut BytesMut) -> Result<BodyEvent, ParseError> {
        loop {
            match &mut self.state {
                State::Done => return Ok(BodyEvent::End),
                State::Bad(error) => return Err(*error),
                State::UntilClose => return Ok(all_of(buffer)),
                State::Length(left) => {
                    let event = at_most(buffer, left);
                    if *left == 0 {
                        self.state = State::Done;
                    }
                    return Ok(event);
                }
                State::ChunkSize => match chunk_size(buffer)? {
                    None => return Ok(BodyEvent::Pending),
                    Some(0) => self.state = State::Trailers(HeadScanner::default()),
                    Some(n) => self.state = State::Chunk(n),
                },
                State::Chunk(left) => {
                    let event = at_most(buffer, left);
                    if *left == 0 {
                        self.state = State::ChunkEnd;
                    }
                    return Ok(event);
                }
                State::ChunkEnd => match buffer.get(..2) {
                    None if buffer.first().is_some_and(|b| *b != b'\r') => {
                        return Err(ParseError::ChunkFraming);
                    }
                    None => return Ok(BodyEvent::Pending),
                    Some(b"\r\n") => {
                        let _ = buffer.split_to(2);
                        self.state = State::ChunkSize;
                    }
                    Some(_) => return Err(ParseError::ChunkFraming),
                },
                State::Trailers(scanner) => {
                    let Some(end) = scanner.scan(buffer, &self.limits)? else {
                        return Ok(BodyEvent::Pending);
                    };
                    let trailers = trailers(buffer, end, &self.limits)?;
                    self.state = State::Done;
                    return Ok(if trailers.is_empty() {
                        BodyEvent::End
                    } else {
                        BodyEvent::Trailers(trailers)
                    });
                }
            }
        }
    }
}

fn all_of(buffer: &mut BytesMut) -> BodyEvent {
    if buffer.is_empty() { BodyEvent::Pending } else { BodyEvent::Data(buffer.split().freeze()) }
}

fn at_most(buffer: &mut BytesMut, left: &mut u64) -> BodyEvent {
    if buffer.is_empty() {
        return BodyEvent::Pending;
    }
    let n = (buffer.len() as u64).min(*left);
    *left -= n;
    BodyEvent::Data(buffer.split_to(n as usize).freeze())
}

/// Hexadecimal digits, perhaps an extension, CRLF. Nothing else: no sign, no blank, no bare LF.
fn chunk_size(buffer: &mut BytesMut) -> Result<Option<u64>, ParseError> {
    let window = &buffer[..buffer.len().min(MAX_CHUNK_LINE)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() == MAX_CHUNK_LINE { Err(ParseError::ChunkSize) } else { Ok(None) };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(ParseError::ChunkSize)?;
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    let extension_is_fine = extension.is_empty()
        || (matches!(extension[0], b';')
            && extension.iter().all(|b| (0x20..0x7f).contains(b) || *b == b'\t'));
    if digits == 0 || digits > 15 || !extension_is_fine {
        return Err(ParseError::ChunkSize);
    }
    let n = size.iter().fold(0u64, |n, d| n << 4 | u64::from((*d as char).to_digit(16).unwrap_or(0)));
    let _ = buffer.split_to(end + 1);
    Ok(Some(n))
}

fn trailers(
    buffer: &mut BytesMut,
    length: usize,
    limits: &HeadLimits,
) -> Result<Vec<(Bytes, Bytes)>, ParseError> {
    let block = buffer.split_to(length).freeze();
    if length == 2 {
        return Ok(Vec::new());
    }
    let mut storage = [httparse::EMPTY_HEADER; 64];
    let parsed = httparse::parse_headers(&block, &mut storage).map_err(|_| ParseError::Trailers)?;
    let httparse::Status::Complete((_, headers)) = parsed else { return Err(ParseError::Trailers) };
    if headers.len() > limits.headers {
        return Err(ParseError::TooManyHeaders);
    }
    Ok(headers
        .iter()
        .map(|h| (Bytes::from(h.name.to_ascii_lowercase().into_bytes()), block.slice_ref(h.value)))
        .collect())
}
