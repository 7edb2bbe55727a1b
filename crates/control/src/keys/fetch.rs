//! Getting a key set from where a resource says it is: what, from whom, and how much of it is bounded.
//!
//! Users choose the address, hence it is judged after its name was looked up, and for every address that an answer leads
//! to; the one that was judged is the one that is called.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tls::{BundleSource, ClientOptions, ClientTls, Verify};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Key sets are a few kilobytes.
const LARGEST: usize = 1 << 20;
const MOST_REDIRECTS: usize = 3;
/// What a proxy needs of a key; private parts are not among it.
const PARTS: [&str; 11] = ["kty", "kid", "use", "alg", "n", "e", "crv", "x", "y", "k", "key_ops"];

pub(super) type LookUp = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// Where keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Uri(Arc<str>),
    /// Where the issuer's own document says (OpenID Connect Discovery).
    Issuer(Arc<str>),
}

#[derive(Clone)]
pub(super) struct Fetcher {
    look_up: Arc<LookUp>,
}

impl Default for Fetcher {
    fn default() -> Self {
        Self::new(|host, port| {
            Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
        })
    }
}

impl Fetcher {
    pub(super) fn new(
        look_up: impl Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync + 'static,
    ) -> Self {
        Self { look_up: Arc::new(look_up) }
    }

    /// The keys that are there now, as a key set of what proxies need; else why there are none, for people.
    pub(super) async fn keys(&self, place: &Place, within: Duration) -> Result<Arc<str>, String> {
        let all = async {
            let uri = match place {
                Place::Uri(uri) => uri.to_string(),
                Place::Issuer(issuer) => self.discover(issuer).await?,
            };
            let body = self.get(&uri).await.map_err(|fault| format!("{uri}: {fault}"))?;
            let bare = bare(&body).map_err(|fault| format!("{uri}: what is there {fault}"))?;
            Ok(bare)
        };
        let late = |_| Err(format!("no answer within {within:?}"));
        tokio::time::timeout(within, all).await.unwrap_or_else(late)
    }

    async fn discover(&self, issuer: &str) -> Result<String, String> {
        let uri = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let body = self.get(&uri).await.map_err(|fault| format!("{uri}: {fault}"))?;
        let document: Value = serde_json::from_slice(&body).unwrap_or_default();
        let found = document["jwks_uri"].as_str().map(str::to_owned);
        found.ok_or_else(|| format!("{uri}: names no jwks_uri"))
    }

    /// The body of a good answer.
    async fn get(&self, uri: &str) -> Result<Bytes, String> {
        let mut uri: Uri = uri.parse().map_err(|_| "is no address".to_owned())?;
        for _ in 0..=MOST_REDIRECTS {
            match self.once(&uri).await? {
                Answer::Body(body) => return Ok(body),
                Answer::Elsewhere(next) => {
                    let secure = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
                    uri = led_to(&uri, &next)
                        .ok_or_else(|| format!("leads to {next:?}, which is no address"))?;
                    if secure && uri.scheme() != Some(&http::uri::Scheme::HTTPS) {
                        return Err(format!("leads to {uri}, which is not encrypted"));
                    }
                }
            }
        }
        Err(format!("leads on more than {MOST_REDIRECTS} times"))
    }

    async fn once(&self, uri: &Uri) -> Result<Answer, String> {
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("{uri} is neither https nor http")),
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = self.connect(host, port).await?;
        let _ = stream.set_nodelay(true);
        if secure {
            let tls = client_tls(host).await?;
            let stream = tls.connect(stream).await.map_err(|e| format!("TLS with {host}: {e}"))?;
            ask(stream, uri).await
        } else {
            ask(stream, uri).await
        }
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let found = (self.look_up)(host.to_owned(), port).await;
        let addresses = found.map_err(|e| format!("the name {host} cannot be looked up: {e}"))?;
        // One that must not be called taints the others: who serves such a name is not to be trusted.
        for address in &addresses {
            if let Some(why) = base::off_limits(address.ip()) {
                return Err(format!("{host} is {}, {why}, and is not called", address.ip()));
            }
        }
        let mut last = format!("the name {host} has no address");
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(e) => last = format!("{address}: {e}"),
            }
        }
        Err(last)
    }
}

/// Trusts what this machine trusts.
async fn client_tls(host: &str) -> Result<ClientTls, String> {
    let roots = tokio::task::spawn_blocking(tls::system_roots).await.map_err(|e| e.to_string())?;
    let roots = BundleSource::new(roots.map_err(|e| e.to_string())?);
    let mut options = ClientOptions::new(Verify::as_asked(roots));
    options.sni = Some(host.to_owned());
    options.alpn = vec![b"http/1.1".to_vec()];
    ClientTls::new(options).map_err(|e| e.to_string())
}

enum Answer {
    Body(Bytes),
    /// A redirect, as it is written.
    Elsewhere(String),
}

async fn ask<S>(stream: S, uri: &Uri) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |e: hyper::Error| format!("no proper answer: {e}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // It ends with the answer, or when this is dropped for being late.
    let mut running = tokio::task::JoinSet::new();
    running.spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("mizzen/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
        let location = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        return location
            .map(|to| Answer::Elsewhere(to.to_owned()))
            .ok_or_else(|| format!("answers {status} and does not say where to"));
    }
    if !status.is_success() {
        return Err(format!("answers {status}"));
    }
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    let body = body.map_err(|e| format!("the answer breaks off, or is longer than {LARGEST} bytes: {e}"))?;
    Ok(Answer::Body(body.to_bytes()))
}

/// Where a redirect leads: a whole address, or a path of the same host.
fn led_to(from: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    if location.starts_with('/') && !location.starts_with("//") {
        let whole = format!("{}://{}{location}", from.scheme_str()?, from.authority()?);
        return whole.parse().ok();
    }
    location.parse().ok().filter(|to: &Uri| to.scheme().is_some() && to.host().is_some())
}

/// The key set with nothing in it but what proxies need: whatever else was fetched is nobody's business.
fn bare(body: &[u8]) -> Result<Arc<str>, &'static str> {
    if syntax::jwks::parse(body)?.is_empty() {
        return Err("has no key that can be used");
    }
    let set: Value = serde_json::from_slice(body).map_err(|_| "is no JSON")?;
    let keys = set["keys"].as_array().into_iter().flatten().filter_map(Value::as_object);
    let keys: Vec<Map<String, Value>> = keys
        .map(|key| {
            let parts = key.iter().filter(|(part, _)| PARTS.contains(&part.as_str()));
            parts.map(|(part, value)| (part.clone(), value.clone())).collect()
        })
        .collect();
    Ok(json!({ "keys": keys }).to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_whole_addresses_or_paths() {
        let from: Uri = "https://a.example:8443/keys".parse().unwrap();
        for (location, expected) in [
            ("/other?x=1", Some("https://a.example:8443/other?x=1")),
            ("https://b.example/keys#top", Some("https://b.example/keys")),
            ("//b.example/keys", None),
            ("keys", None),
            ("", None),
        ] {
            assert_eq!(led_to(&from, location).map(|to| to.to_string()).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn nothing_of_a_key_set_goes_on_but_what_verifies() {
        let fetched = br#"{"keys": [{"kty": "RSA", "n": "YQ", "e": "AQAB", "d": "secret", "x5c": ["long"]}, 1], "more": 1}"#;
        assert_eq!(&*bare(fetched).unwrap(), r#"{"keys":[{"kty":"RSA","n":"YQ","e":"AQAB"}]}"#);
        for wrong in ["", "<html>", "{}", r#"{"keys": {}}"#, r#"{"keys": []}"#] {
            assert!(bare(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
