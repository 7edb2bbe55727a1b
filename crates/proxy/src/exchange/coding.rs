//! Bodies that are encoded or decoded on their way. What comes in goes out at once: nothing waits for more.

use std::io::{self, Write};
use std::rc::Rc;

use brotli::{CompressorWriter, DecompressorWriter};
use bytes::Bytes;
use decide::{Coding, Decode, Encoded, Headers};
use flate2::Compression;
use flate2::write::{GzDecoder, GzEncoder};

use crate::worker::Worker;

pub enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
}

/// Of brotli, inside.
const BUFFER: usize = 4096;
/// The same where it decodes: so much may come of any piece.
const LARGE_BUFFER: usize = 16 * 1024;

impl Encoder {
    pub fn new(coding: Coding) -> Self {
        match coding {
            Coding::Gzip { level } => Self::Gzip(GzEncoder::new(Vec::new(), Compression::new(level))),
            Coding::Brotli { quality, window } => {
                Self::Brotli(Box::new(CompressorWriter::new(Vec::new(), BUFFER, quality, window)))
            }
        }
    }

    /// A piece, so that the client can decode all of it.
    pub fn encode(&mut self, data: &[u8]) -> Bytes {
        // Writing to memory does not fail.
        let out = match self {
            Self::Gzip(encoder) => {
                let _ = encoder.write_all(data).and_then(|()| encoder.flush());
                std::mem::take(encoder.get_mut())
            }
            Self::Brotli(encoder) => {
                let _ = encoder.write_all(data).and_then(|()| encoder.flush());
                std::mem::take(encoder.get_mut())
            }
        };
        out.into()
    }

    /// What ends the body.
    pub fn finish(self) -> Bytes {
        match self {
            Self::Gzip(encoder) => encoder.finish().unwrap_or_default().into(),
            Self::Brotli(encoder) => encoder.into_inner().into(),
        }
    }
}

/// Takes what is decoded, as long as it is not too much for what it comes from.
#[derive(Default)]
struct Bounded {
    out: Vec<u8>,
    most: usize,
    overflowed: bool,
}

impl Write for Bounded {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.out.len() > self.most {
            self.overflowed = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.out.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Decoding {
    Gzip(Box<GzDecoder<Bounded>>),
    Brotli(Box<DecompressorWriter<Bounded>>),
    /// It ended, or broke: what follows is nothing.
    Over,
}

/// Decodes a body, bounded by what comes in: a small piece never becomes a large one.
struct Inflater {
    decoding: Decoding,
    /// So many times what comes in.
    most: usize,
}

/// Why a body is decoded no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Faulty,
    TooMuch,
}

impl Inflater {
    fn new(encoded: Encoded) -> Self {
        let (decoding, most) = match encoded {
            Encoded::Gzip { most } => (Decoding::Gzip(Box::new(GzDecoder::new(Bounded::default()))), most),
            Encoded::Brotli { most } => {
                let writer = DecompressorWriter::new(Bounded::default(), LARGE_BUFFER);
                (Decoding::Brotli(Box::new(writer)), most)
            }
        };
        Self { decoding, most: most as usize }
    }

    fn decode(&mut self, data: &[u8]) -> (Vec<u8>, Option<Broken>) {
        let most = self.most.saturating_mul(data.len());
        let (written, bounded) = match &mut self.decoding {
            Decoding::Gzip(decoder) => {
                decoder.get_mut().most = most;
                (decoder.write_all(data).and_then(|()| decoder.flush()), decoder.get_mut())
            }
            Decoding::Brotli(decoder) => {
                decoder.get_mut().most = most;
                (decoder.write_all(data).and_then(|()| decoder.flush()), decoder.get_mut())
            }
            Decoding::Over => (Ok(()), &mut Bounded::default()),
        };
        let out = std::mem::take(&mut bounded.out);
        let broken = match written {
            Ok(()) => return (out, None),
            Err(_) if bounded.overflowed => Some(Broken::TooMuch),
            // What follows the end of what was encoded is none of it.
            Err(error) if error.kind() == io::ErrorKind::WriteZero => None,
            Err(_) => Some(Broken::Faulty),
        };
        self.decoding = Decoding::Over;
        (out, broken)
    }
}

/// Decodes a body and counts. As with Envoy, what does not decode or becomes too much ends the body.
pub struct Decoder {
    inflater: Inflater,
    about: Decode,
    worker: Rc<Worker>,
    before: u64,
    after: u64,
}

impl Decoder {
    pub fn new(about: &Decode, worker: &Rc<Worker>) -> Self {
        let inflater = Inflater::new(about.encoded);
        Self { inflater, about: about.clone(), worker: worker.clone(), before: 0, after: 0 }
    }

    pub fn decode(&mut self, data: &[u8]) -> Bytes {
        let (out, broken) = self.inflater.decode(data);
        match broken {
            Some(Broken::TooMuch) => self.worker.count_by(&self.about.overflows, 1),
            Some(Broken::Faulty) => self.worker.count_by(&self.about.errors, 1),
            None => {}
        }
        self.before += data.len() as u64;
        self.after += out.len() as u64;
        out.into()
    }

    /// Says in the trailers how much it was.
    pub fn report(&self, trailers: &mut Headers) {
        for (name, bytes) in self.about.trailers.iter().zip([self.before, self.after]) {
            trailers.append(name.clone(), bytes.to_string());
        }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        self.worker.count_by(&self.about.compressed, self.before);
        self.worker.count_by(&self.about.uncompressed, self.after);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_encoded_in_pieces_decodes_to_the_same() {
        let text: Vec<u8> = (0..100_000u32).flat_map(|n| (n % 977).to_be_bytes()).collect();
        for coding in [Coding::Gzip { level: 6 }, Coding::Brotli { quality: 3, window: 18 }] {
            let mut encoder = Encoder::new(coding);
            let mut out: Vec<u8> = text.chunks(7_001).flat_map(|piece| encoder.encode(piece)).collect();
            out.extend(encoder.finish());
            let mut back = Vec::new();
            match coding {
                Coding::Gzip { .. } => _ = flate2::read::GzDecoder::new(&out[..]).read_to_end(&mut back),
                Coding::Brotli { .. } => _ = brotli::Decompressor::new(&out[..], 4096).read_to_end(&mut back),
            }
            assert!(back == text && out.len() < text.len() / 4, "{coding:?}");
        }
    }

    #[test]
    fn what_decodes_is_the_same_however_it_is_cut() {
        let text: Vec<u8> = (0..20_000u32).flat_map(|n| (n % 977).to_be_bytes()).collect();
        for (coding, encoded) in [
            (Coding::Gzip { level: 6 }, Encoded::Gzip { most: 100_000 }),
            (Coding::Brotli { quality: 3, window: 18 }, Encoded::Brotli { most: 100_000 }),
        ] {
            let mut encoder = Encoder::new(coding);
            let wire = [encoder.encode(&text), encoder.finish()].concat();
            // The bound is by piece, as Envoy's is: with less, a last small piece may be too little for what it becomes.
            for size in [1, 100, wire.len()] {
                let mut inflater = Inflater::new(encoded);
                let out: Vec<u8> = wire.chunks(size).flat_map(|piece| inflater.decode(piece).0).collect();
                assert!(out == text, "{coding:?} in pieces of {size}: {}", out.len());
                assert_eq!(inflater.decode(b"and more").1, None);
            }
        }
    }

    #[test]
    fn a_small_body_never_becomes_a_large_one() {
        let bomb = vec![0; 50_000_000];
        for (coding, encoded) in [
            (Coding::Gzip { level: 9 }, Encoded::Gzip { most: 100 }),
            (Coding::Brotli { quality: 3, window: 18 }, Encoded::Brotli { most: 100 }),
        ] {
            let mut encoder = Encoder::new(coding);
            let wire = [encoder.encode(&bomb), encoder.finish()].concat();
            for size in [10, 1000, wire.len()] {
                let mut inflater = Inflater::new(encoded);
                let (mut most, mut broken) = (0, None);
                for piece in wire.chunks(size) {
                    let (out, why) = inflater.decode(piece);
                    most = most.max(out.len());
                    broken = broken.or(why);
                }
                assert_eq!(broken, Some(Broken::TooMuch), "{coding:?} in pieces of {size}");
                assert!(most <= 100 * size + 64 * 1024, "{coding:?} in pieces of {size}: {most}");
            }
        }
    }

    #[test]
    fn what_is_not_encoded_is_faulty_and_yields_nothing() {
        for encoded in [Encoded::Gzip { most: 100 }, Encoded::Brotli { most: 100 }] {
            let mut inflater = Inflater::new(encoded);
            let (out, broken) = inflater.decode(b"this is not encoded, whatever it says of itself");
            assert_eq!((out.len(), broken), (0, Some(Broken::Faulty)), "{encoded:?}");
            assert_eq!(inflater.decode(b"more").1, None);
        }
    }
}
