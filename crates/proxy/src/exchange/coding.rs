//! Bodies that are encoded on their way to the client. What comes in goes out at once: nothing waits for more.

use std::io::Write;

use brotli::CompressorWriter;
use bytes::Bytes;
use decide::Coding;
use flate2::Compression;
use flate2::write::GzEncoder;

pub enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
}

/// Of brotli, inside.
const BUFFER: usize = 4096;

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

    /// A body that is there already.
    pub fn whole(coding: Coding, body: &[u8]) -> Bytes {
        let mut encoder = Self::new(coding);
        let first = encoder.encode(body);
        [first, encoder.finish()].concat().into()
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
}
