//! Compression of answers: whether one is compressed, by which coding, and what its head then says. Envoy's conditions.

use std::sync::Arc;

use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::compression::brotli::compressor::v3::Brotli;
use proto::pb::envoy::extensions::compression::gzip::compressor::v3::{Gzip, gzip::CompressionLevel};
use proto::pb::envoy::extensions::filters::http::compressor::v3 as pb;

use crate::headers::{Headers, Known};
use crate::matching::StringMatcher;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::request::Response;
use crate::wire::{number, type_of, unpack};

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// With zlib's level.
    Gzip {
        level: u32,
    },
    Brotli {
        quality: u32,
        window: u32,
    },
}

impl Coding {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip { .. } => "gzip",
            Self::Brotli { .. } => "br",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Compressor {
    coding: Coding,
    enabled: bool,
    min_length: u64,
    /// Lower case; empty for those of [`CONTENT_TYPES`].
    types: Vec<Box<str>>,
    matchers: Vec<StringMatcher>,
    uncompressible: Vec<u16>,
    disable_on_etag: bool,
    weaken_etag: bool,
    remove_accept_encoding: bool,
    choose_first: bool,
}

/// What a route says for the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PerRoute {
    enabled: Option<bool>,
    remove_accept_encoding: Option<bool>,
}

/// A compressor that a request has passed.
#[derive(Debug, Clone)]
struct Passed {
    compressor: Arc<Compressor>,
    enabled: bool,
    /// What the client accepts, as this filter saw it.
    accepts: Option<String>,
}

/// The compressors that a request has passed, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Compressors(Vec<Passed>);

const MIN_LENGTH: u64 = 30;

/// Those that are compressed where the configuration does not say.
const CONTENT_TYPES: &[&str] = &[
    "text/html",
    "text/plain",
    "text/css",
    "application/javascript",
    "application/x-javascript",
    "text/javascript",
    "text/x-javascript",
    "text/ecmascript",
    "text/js",
    "text/jscript",
    "text/x-js",
    "application/ecmascript",
    "application/x-json",
    "application/xml",
    "application/json",
    "image/svg+xml",
    "text/xml",
    "application/xhtml+xml",
    "application/grpc-web",
    "application/grpc-web+proto",
];

impl Compressor {
    pub(crate) fn compile(message: &pb::Compressor) -> Taken<Self> {
        let library = message.compressor_library.as_ref();
        let library = library.ok_or_else(|| Refusal::new("is missing").under("compressorLibrary"))?;
        let response = message.response_direction_config.clone().unwrap_or_default();
        let common = response.common_config.clone().unwrap_or_default();
        Ok(Self {
            coding: coding(library).within("compressorLibrary")?,
            enabled: common
                .enabled
                .as_ref()
                .and_then(|flag| flag.default_value.as_ref())
                .is_none_or(|value| value.value),
            min_length: match number(&common.min_content_length) {
                None | Some(0) => MIN_LENGTH,
                Some(length) => u64::from(length),
            },
            types: common.content_type.iter().map(|t| t.to_ascii_lowercase().into()).collect(),
            matchers: each(&common.content_type_matcher, "contentTypeMatcher", StringMatcher::compile)
                .within("commonConfig")
                .within("responseDirectionConfig")?,
            uncompressible: response.uncompressible_response_codes.iter().map(|code| *code as u16).collect(),
            disable_on_etag: response.disable_on_etag_header,
            weaken_etag: response.weaken_etag_on_compress,
            remove_accept_encoding: response.remove_accept_encoding_header,
            choose_first: message.choose_first,
        })
    }

    fn takes_type(&self, headers: &Headers) -> bool {
        let Some(value) = headers.known_str(Known::ContentType) else { return true };
        let value = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match (self.types.is_empty(), self.matchers.is_empty()) {
            (true, true) => CONTENT_TYPES.contains(&value.as_str()),
            _ => {
                self.types.iter().any(|t| **t == *value)
                    || self.matchers.iter().any(|m| m.matches(value.as_bytes()))
            }
        }
    }

    fn takes_length(&self, headers: &Headers) -> bool {
        match headers.known_str(Known::ContentLength) {
            Some(text) => text.parse::<u64>().is_ok_and(|length| length >= self.min_length),
            None => true,
        }
    }
}

fn coding(library: &core::TypedExtensionConfig) -> Taken<Coding> {
    let any = library.typed_config.as_ref().ok_or_else(|| Refusal::new("is missing").under("typedConfig"))?;
    match type_of(any) {
        "envoy.extensions.compression.gzip.compressor.v3.Gzip" => {
            let gzip: Gzip = unpack(any).within("typedConfig")?;
            let level = match CompressionLevel::try_from(gzip.compression_level) {
                // zlib's own.
                Ok(CompressionLevel::DefaultCompression) => 6,
                Ok(level) => level as u32,
                Err(_) => return Err(Refusal::new("unknown").under("compressionLevel").under("typedConfig")),
            };
            Ok(Coding::Gzip { level: level.min(9) })
        }
        "envoy.extensions.compression.brotli.compressor.v3.Brotli" => {
            let brotli: Brotli = unpack(any).within("typedConfig")?;
            Ok(Coding::Brotli {
                quality: number(&brotli.quality).unwrap_or(3).min(11),
                window: number(&brotli.window_bits).unwrap_or(18).clamp(10, 24),
            })
        }
        other => {
            Err(Refusal::new(format_args!("{other} is not supported by this proxy")).under("typedConfig"))
        }
    }
}

impl PerRoute {
    pub(crate) fn compile(message: &pb::CompressorPerRoute) -> Taken<Self> {
        use pb::compressor_per_route::Override;
        Ok(
            match message
                .r#override
                .as_ref()
                .ok_or_else(|| Refusal::new("says neither disabled nor overrides"))?
            {
                Override::Disabled(_) => Self { enabled: Some(false), remove_accept_encoding: None },
                Override::Overrides(overrides) => match &overrides.response_direction_config {
                    None => Self { enabled: None, remove_accept_encoding: None },
                    Some(response) => Self {
                        enabled: Some(true),
                        remove_accept_encoding: response
                            .remove_accept_encoding_header
                            .as_ref()
                            .map(|v| v.value),
                    },
                },
            },
        )
    }
}

impl Compressors {
    /// A request passes the filter: which of them it is.
    pub(crate) fn pass(
        &mut self,
        compressor: &Arc<Compressor>,
        own: Option<PerRoute>,
        headers: &mut Headers,
    ) -> usize {
        let accepts =
            headers.joined(&ACCEPT_ENCODING.into()).map(|v| String::from_utf8_lossy(&v).into_owned());
        let enabled = own.and_then(|own| own.enabled).unwrap_or(compressor.enabled);
        let remove =
            own.and_then(|own| own.remove_accept_encoding).unwrap_or(compressor.remove_accept_encoding);
        if enabled && remove {
            headers.remove(&ACCEPT_ENCODING.into());
        }
        self.0.push(Passed { compressor: Arc::clone(compressor), enabled, accepts });
        self.0.len() - 1
    }

    /// Whether one of them compresses the answer, and by what. Its head says so then, and that it could be in any case.
    /// `chosen` is what the client likes best, once one has asked.
    pub(super) fn encode(
        &self,
        which: usize,
        chosen: &mut Option<Option<&'static str>>,
        response: &mut Response,
        has_body: bool,
        upgrade: bool,
    ) -> Option<Coding> {
        let passed = self.0.get(which)?;
        let compressor = &*passed.compressor;
        let headers = &response.headers;
        let wanted = passed.enabled && compressor.takes_length(headers);
        let compressible = wanted
            && !upgrade
            && compressor.takes_type(headers)
            && !has_token(headers.get_str("cache-control"), "no-transform")
            && !(compressor.disable_on_etag && headers.get_str("etag").is_some())
            && headers.get_str("content-encoding").is_none()
            && !compressor.uncompressible.contains(&response.status);
        let accepted = has_body && wanted && {
            let accepts = passed.accepts.as_deref();
            accepts.is_some_and(|accepts| {
                let name = *chosen.get_or_insert_with(|| self.choose(accepts, headers));
                name == Some(compressor.coding.name())
            })
        };
        if accepted && compressible {
            weaken_etag(&mut response.headers, compressor.weaken_etag);
            response.headers.remove_known(Known::ContentLength);
            response.headers.set("content-encoding", compressor.coding.name());
        }
        if compressible {
            vary(&mut response.headers);
        }
        (accepted && compressible).then_some(compressor.coding)
    }

    /// The coding that the client likes best of those that there are; nothing for none.
    fn choose(&self, accepts: &str, headers: &Headers) -> Option<&'static str> {
        let mut allowed: Vec<(&'static str, bool)> = Vec::new();
        for passed in self.0.iter().filter(|p| p.compressor.takes_type(headers)) {
            let name = passed.compressor.coding.name();
            if !allowed.iter().any(|(known, _)| *known == name) {
                allowed.push((name, passed.compressor.choose_first));
            }
        }
        let mut wishes: Vec<(&str, f32)> = Vec::new();
        for wish in accepts.split(',').filter(|wish| !wish.is_empty()) {
            let (name, parameters) = wish.split_once(';').unwrap_or((wish, ""));
            let name = name.trim();
            let mut q = 1.0;
            if let Some((key, value)) = parameters.split_once('=')
                && key.trim().eq_ignore_ascii_case("q")
            {
                let Ok(value) = value.trim().parse() else { continue };
                q = value;
            }
            wishes.push((name, q));
            if q == 0.0 {
                allowed.retain(|(known, _)| *known != name);
            }
        }
        let first = allowed.first()?.0;
        let mut choice = ("identity", 0.0);
        for (name, q) in wishes {
            let ours = allowed.iter().find(|(known, _)| *known == name);
            if (ours.is_some() || name == "identity" || name == "*")
                && (q > choice.1 || q == choice.1 && ours.is_some_and(|(_, first)| *first))
            {
                choice = (name, q);
            }
        }
        match choice {
            (_, 0.0) => None,
            ("identity", _) => None,
            ("*", _) => Some(first),
            (name, _) => allowed.iter().find(|(known, _)| *known == name).map(|(known, _)| *known),
        }
    }
}

pub(super) const ACCEPT_ENCODING: &str = "accept-encoding";

pub(super) fn has_token(list: Option<&str>, token: &str) -> bool {
    list.unwrap_or_default().split(',').any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// What is compressed is not the same to the byte: a strong tag goes, or becomes a weak one.
fn weaken_etag(headers: &mut Headers, weaken: bool) {
    let Some(tag) = headers.get_str("etag").map(str::to_owned) else { return };
    if tag.len() <= 2 || tag.starts_with("W/") || tag.starts_with("w/") {
        return;
    }
    headers.remove(&"etag".into());
    if weaken {
        headers.set("etag", format!("W/{tag}"));
    }
}

fn vary(headers: &mut Headers) {
    let old = headers.joined(&Known::Vary.into()).map(|v| String::from_utf8_lossy(&v).into_owned());
    match old {
        Some(old) if old.split(',').any(|item| item.trim() == "Accept-Encoding") => {}
        Some(old) => headers.set(Known::Vary, format!("{old}, Accept-Encoding")),
        None => headers.set(Known::Vary, "Accept-Encoding"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressor(coding: Coding) -> Arc<Compressor> {
        Arc::new(Compressor {
            coding,
            enabled: true,
            min_length: MIN_LENGTH,
            types: Vec::new(),
            matchers: Vec::new(),
            uncompressible: vec![206],
            disable_on_etag: false,
            weaken_etag: false,
            remove_accept_encoding: false,
            choose_first: false,
        })
    }

    const GZIP: Coding = Coding::Gzip { level: 6 };
    const BROTLI: Coding = Coding::Brotli { quality: 3, window: 18 };

    fn encoded(accepts: &str, headers: &[(&str, &str)]) -> (Option<&'static str>, Response) {
        let mut request = Headers::new();
        request.set(ACCEPT_ENCODING, accepts.to_owned());
        let mut all = Compressors::default();
        for coding in [GZIP, BROTLI] {
            all.pass(&compressor(coding), None, &mut request);
        }
        let mut response = Response::new(200);
        headers.iter().for_each(|(name, value)| response.headers.append(*name, (*value).to_owned()));
        let mut chosen = None;
        let tried = [1, 0].map(|which| all.encode(which, &mut chosen, &mut response, true, false));
        let coding = tried.into_iter().flatten().next().map(Coding::name);
        (coding, response)
    }

    #[test]
    fn the_client_says_what_it_likes_best() {
        for (accepts, expected) in [
            ("gzip", Some("gzip")),
            ("br", Some("br")),
            ("gzip, br", Some("gzip")),
            ("gzip;q=0.5, br;q=0.9", Some("br")),
            ("gzip;q=0, *", Some("br")),
            ("*", Some("gzip")),
            ("identity, gzip;q=0.5", None),
            ("deflate", None),
            ("gzip;q=x", None),
            ("gzip;q=0", None),
            ("", None),
        ] {
            assert_eq!(encoded(accepts, &[("content-type", "text/plain")]).0, expected, "{accepts:?}");
        }
    }

    #[test]
    fn only_what_may_be_compressed_is_and_the_head_says_so() {
        let (coding, response) =
            encoded("gzip", &[("content-length", "100"), ("etag", "\"x\""), ("vary", "origin")]);
        assert_eq!(coding, Some("gzip"));
        let header = |name| response.headers.get_str(name);
        assert_eq!((header("content-encoding"), header("content-length")), (Some("gzip"), None));
        assert_eq!((header("etag"), header("vary")), (None, Some("origin, Accept-Encoding")));
        for headers in [
            &[("content-length", "29")][..],
            &[("content-type", "image/png")],
            &[("cache-control", "private, No-Transform")],
            &[("content-encoding", "br")],
        ] {
            assert_eq!(encoded("gzip", headers).0, None, "{headers:?}");
        }
        assert_eq!(encoded("gzip", &[("content-type", "TEXT/HTML; charset=utf-8")]).0, Some("gzip"));
    }
}
