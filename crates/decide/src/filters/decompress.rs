//! Decompression of requests and answers: which are decompressed, and what their heads then say. Envoy's conditions.

use std::sync::Arc;

use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::compression::gzip::decompressor::v3::Gzip;
use proto::pb::envoy::extensions::filters::http::decompressor::v3 as pb;
use proto::pb::envoy::extensions::filters::http::decompressor::v3::decompressor::CommonDirectionConfig;

use super::compress::{ACCEPT_ENCODING, has_token};
use crate::headers::{HeaderName, Headers, Known};
use crate::machine::{Count, CountScope};
use crate::refusal::{Refusal, Taken, Within};
use crate::wire::{flag, number, type_of, unpack};

/// How a body is encoded, and how much larger than what it came as a piece of it may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoded {
    Gzip { most: u32 },
    Brotli { most: u32 },
}

impl Encoded {
    const fn name(self) -> &'static str {
        match self {
            Self::Gzip { .. } => "gzip",
            Self::Brotli { .. } => "br",
        }
    }

    /// In names of counters.
    const fn stat(self) -> &'static str {
        match self {
            Self::Gzip { .. } => "gzip",
            Self::Brotli { .. } => "brotli",
        }
    }
}

/// Envoy's for both codings, where the configuration says nothing.
const MOST: u32 = 100;

/// Of one body: how it is decoded, and where that is told.
#[derive(Debug, Clone)]
pub struct Decode {
    pub encoded: Encoded,
    /// Bytes before and after, counted as they pass.
    pub compressed: Count,
    pub uncompressed: Count,
    /// What does not decode, and what decodes to too much.
    pub errors: Count,
    pub overflows: Count,
    /// Trailers that tell of the bytes before and after.
    pub trailers: [HeaderName; 2],
}

#[derive(Debug)]
pub(crate) struct Decompressor {
    encoded: Encoded,
    request: Direction,
    response: Direction,
    advertises: bool,
    errors: Arc<str>,
    overflows: Arc<str>,
    trailers: [HeaderName; 2],
}

#[derive(Debug)]
struct Direction {
    enabled: bool,
    ignores_no_transform: bool,
    decompressed: Arc<str>,
    not_decompressed: Arc<str>,
    compressed_bytes: Arc<str>,
    uncompressed_bytes: Arc<str>,
}

impl Direction {
    fn new(config: Option<&CommonDirectionConfig>, prefix: &str) -> Self {
        let stat = |name: &str| Arc::from(format!("{prefix}.{name}"));
        Self {
            enabled: config.and_then(|c| c.enabled.as_ref()).is_none_or(|e| flag(&e.default_value, true)),
            ignores_no_transform: config.is_some_and(|c| c.ignore_no_transform_header),
            decompressed: stat("decompressed"),
            not_decompressed: stat("not_decompressed"),
            compressed_bytes: stat("total_compressed_bytes"),
            uncompressed_bytes: stat("total_uncompressed_bytes"),
        }
    }
}

impl Decompressor {
    pub(crate) fn compile(message: &pb::Decompressor) -> Taken<Self> {
        let library = message.decompressor_library.as_ref();
        let library = library.ok_or_else(|| Refusal::new("is missing").under("decompressorLibrary"))?;
        let encoded = encoded(library).within("decompressorLibrary")?;
        let prefix = format!("decompressor.{}.{}", library.name, encoded.stat());
        let request = message.request_direction_config.as_ref();
        let response = message.response_direction_config.as_ref();
        let (errors, overflows) = match encoded {
            // Both are zlib's words for data that it does not take.
            Encoded::Gzip { .. } => ("zlib_data_error", "zlib_data_error"),
            Encoded::Brotli { .. } => ("brotli_error", "brotli_output_overflow"),
        };
        let library_stat = |name: &str| Arc::from(format!("{prefix}.decompressor_library.{name}"));
        let trailer =
            |what: &str| HeaderName::new(format!("x-envoy-decompressor-{}-{what}-bytes", library.name));
        Ok(Self {
            encoded,
            request: Direction::new(
                request.and_then(|r| r.common_config.as_ref()),
                &format!("{prefix}.request"),
            ),
            response: Direction::new(
                response.and_then(|r| r.common_config.as_ref()),
                &format!("{prefix}.response"),
            ),
            advertises: request.is_none_or(|r| flag(&r.advertise_accept_encoding, true)),
            errors: library_stat(errors),
            overflows: library_stat(overflows),
            trailers: [trailer("compressed"), trailer("uncompressed")],
        })
    }

    /// Says to upstreams that answers may be compressed.
    pub(crate) fn advertise(&self, headers: &mut Headers) {
        if !self.response.enabled || !self.advertises {
            return;
        }
        let name = HeaderName::from(ACCEPT_ENCODING);
        let before = headers.joined(&name).map(|v| String::from_utf8_lossy(&v).into_owned());
        // What the client says of the same coding counts no more.
        let other = |wish: &&str| wish.split(';').next().unwrap_or_default().trim() != self.encoded.name();
        let wishes = before.as_deref().unwrap_or_default().split(',').map(str::trim);
        let kept: Vec<&str> = wishes.filter(|w| !w.is_empty()).filter(other).collect();
        headers.set(name, [&kept[..], &[self.encoded.name()]].concat().join(","));
    }

    pub(crate) fn request(&self, owner: &Arc<str>, headers: &mut Headers) -> (Option<Decode>, Count) {
        self.decide(&self.request, owner, headers)
    }

    pub(super) fn response(&self, owner: &Arc<str>, headers: &mut Headers) -> (Option<Decode>, Count) {
        self.decide(&self.response, owner, headers)
    }

    /// Whether a body with these headers is decoded: they say what it then is.
    fn decide(
        &self,
        direction: &Direction,
        owner: &Arc<str>,
        headers: &mut Headers,
    ) -> (Option<Decode>, Count) {
        let count = |stat: &Arc<str>| Count {
            scope: CountScope::Http,
            owner: Arc::clone(owner),
            stat: Arc::clone(stat),
        };
        let codings = headers.get_str(CONTENT_ENCODING).unwrap_or_default();
        let (first, rest) = codings.split_once(',').unwrap_or((codings, ""));
        let decoded = direction.enabled
            && (direction.ignores_no_transform
                || !has_token(headers.get_str("cache-control"), "no-transform"))
            && first.trim().eq_ignore_ascii_case(self.encoded.name());
        if !decoded {
            return (None, count(&direction.not_decompressed));
        }
        let (more, rest) = (codings.contains(','), rest.trim().to_owned());
        headers.remove_known(Known::ContentLength);
        match more {
            true => headers.set(CONTENT_ENCODING, rest),
            false => _ = headers.remove(&CONTENT_ENCODING.into()),
        }
        let decode = Decode {
            encoded: self.encoded,
            compressed: count(&direction.compressed_bytes),
            uncompressed: count(&direction.uncompressed_bytes),
            errors: count(&self.errors),
            overflows: count(&self.overflows),
            trailers: self.trailers.clone(),
        };
        (Some(decode), count(&direction.decompressed))
    }
}

const CONTENT_ENCODING: &str = "content-encoding";

fn encoded(library: &core::TypedExtensionConfig) -> Taken<Encoded> {
    let any = library.typed_config.as_ref().ok_or_else(|| Refusal::new("is missing").under("typedConfig"))?;
    match type_of(any) {
        "envoy.extensions.compression.gzip.decompressor.v3.Gzip" => {
            let gzip: Gzip = unpack(any).within("typedConfig")?;
            let most = number(&gzip.max_inflate_ratio).unwrap_or(MOST).clamp(1, 1032);
            Ok(Encoded::Gzip { most })
        }
        "envoy.extensions.compression.brotli.decompressor.v3.Brotli" => Ok(Encoded::Brotli { most: MOST }),
        other => {
            Err(Refusal::new(format_args!("{other} is not supported by this proxy")).under("typedConfig"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip() -> Decompressor {
        let prefix = "decompressor.x.gzip";
        Decompressor {
            encoded: Encoded::Gzip { most: MOST },
            request: Direction::new(None, prefix),
            response: Direction::new(None, prefix),
            advertises: true,
            errors: "e".into(),
            overflows: "o".into(),
            trailers: ["a".into(), "b".into()],
        }
    }

    #[test]
    fn upstreams_are_told_once_and_without_a_weight() {
        for (before, after) in [
            ("", "gzip"),
            ("br", "br,gzip"),
            ("gzip;q=0.3, br;q=0.5", "br;q=0.5,gzip"),
            ("gzip,gzip ;q=0", "gzip"),
            ("GZIP", "GZIP,gzip"),
        ] {
            let mut headers = Headers::new();
            headers.append(ACCEPT_ENCODING, before.to_owned());
            gzip().advertise(&mut headers);
            assert_eq!(headers.get_str(ACCEPT_ENCODING), Some(after), "{before:?}");
        }
    }

    #[test]
    fn the_first_coding_is_what_counts() {
        for (codings, control, after) in [
            ("gzip", "", Some(None)),
            (" GZip ", "", Some(None)),
            ("gzip, br", "", Some(Some("br"))),
            ("gzip,", "", Some(Some(""))),
            ("br, gzip", "", None),
            ("gzip", "public, no-transform", None),
            ("", "", None),
        ] {
            let mut headers = Headers::new();
            headers.append(CONTENT_ENCODING, codings.to_owned());
            headers.append(Known::CacheControl, control.to_owned());
            headers.append(Known::ContentLength, "9");
            let (decode, _) = gzip().request(&"p".into(), &mut headers);
            assert_eq!(decode.map(|_| headers.get_str(CONTENT_ENCODING)), after, "{codings:?} {control:?}");
            assert_eq!(headers.contains(Known::ContentLength), after.is_none());
        }
    }
}
