//! The same cases over HTTP/2 with prior knowledge, as far as HTTP/2 can say them.

use std::future::poll_fn;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::both_h2::{OF_CONNECTIONS, headers, map, read, write};
use crate::case::Case;
use crate::message::{Body, Message, Reader, bytes};
use crate::observe::Observation;
use crate::upstream::PROBE;

/// Whether all of a case can be said in HTTP/2.
pub fn can_say(case: &Case) -> bool {
    let usual = case.raw.iter().next().is_none() && !case.half_close && !case.pipeline;
    usual
        && case.messages().iter().all(|text| {
            let head = text.split("\r\n\r\n").next().unwrap_or_default();
            let mut lines = head.split("\r\n");
            let mut words = lines.next().unwrap_or_default().split(' ');
            let (method, target, version) = (words.next(), words.next(), words.next());
            method.is_some_and(|m| m != "CONNECT")
                && version == Some("HTTP/1.1")
                && target.is_some_and(|t| t.starts_with('/') && !t.contains('#') && Uri::try_from(t).is_ok())
                && lines.all(|line| {
                    let (name, value) = line.split_once(':').unwrap_or_default();
                    let name = name.to_ascii_lowercase();
                    let authority =
                        name != "host" || Uri::try_from(format!("http://{}/", value.trim())).is_ok();
                    let chunked = name == "transfer-encoding" && value.trim() == "chunked";
                    let te = name != "te" || value.trim() == "trailers";
                    let plain = http::HeaderName::try_from(name.as_str()).is_ok()
                        && http::HeaderValue::try_from(value.trim()).is_ok();
                    authority
                        && te
                        && plain
                        && name != "expect"
                        && (chunked || !OF_CONNECTIONS.contains(&&*name))
                })
        })
}

/// What the client's end of the exchange saw.
pub async fn play<S>(case: &Case, scheme: &str, stream: S) -> anyhow::Result<Observation>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut client, connection) = h2::client::handshake(stream).await?;
    let driving = tokio::spawn(connection);
    let mut seen = Observation::default();
    let patience = Duration::from_millis(case.patience);
    for (i, text) in case.messages().iter().enumerate() {
        let turn = i + 1;
        match timeout(patience, exchange(&mut client, scheme, text)).await {
            Ok(Ok(message)) => seen.response(turn, &message),
            Ok(Err(fault)) => seen.note(&format!("{turn}.end"), &fault),
            Err(_) => seen.note(&format!("{turn}.end"), "no answer in time"),
        }
    }
    let probe = format!("GET /probe HTTP/1.1\r\nhost: a.example\r\n{PROBE}: 1\r\n\r\n");
    let state = match timeout(Duration::from_millis(1500), exchange(&mut client, scheme, &probe)).await {
        Ok(Ok(message)) => format!("kept, then {}", message.status()),
        Ok(Err(_)) => "closed".to_owned(),
        Err(_) => "silent".to_owned(),
    };
    seen.note("connection", &state);
    driving.abort();
    Ok(seen)
}

/// One request of HTTP/1's words, and its whole answer.
async fn exchange(client: &mut SendRequest<Bytes>, scheme: &str, text: &str) -> Result<Message, String> {
    let raw = bytes(text);
    let mut reader = Reader::new(&raw[..]);
    let mut message = reader.head().await.map_err(|e| format!("{e:?}"))?;
    reader.body(&mut message, Body::OfRequest).await.map_err(|e| format!("{e:?}"))?;
    let request = request(&message, scheme).map_err(|e| format!("{e:#}"))?;
    poll_fn(|cx| client.poll_ready(cx)).await.map_err(|e| fault(&e))?;
    let bare = message.body.is_empty() && message.trailers.is_empty();
    let (response, mut stream) = client.send_request(request, bare).map_err(|e| fault(&e))?;
    if !bare {
        write(&mut stream, message);
    }
    let (parts, body) = response.await.map_err(|e| fault(&e))?.into_parts();
    let mut answer = Message {
        line: format!("HTTP/2 {}", parts.status.as_u16()),
        headers: headers(&parts.headers),
        ..Message::default()
    };
    read(body, &mut answer).await;
    Ok(answer)
}

fn request(message: &Message, scheme: &str) -> anyhow::Result<Request<()>> {
    let mut words = message.line.split(' ');
    let (method, target) = (words.next().context("no method")?, words.next().context("no target")?);
    let host = message.header("host").unwrap_or_default();
    let mut request = Request::builder().method(method).uri(format!("{scheme}://{host}{target}")).body(())?;
    let kept = message.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host"));
    *request.headers_mut() = map(&kept.cloned().collect());
    *request.version_mut() = http::Version::HTTP_2;
    Ok(request)
}

fn fault(error: &h2::Error) -> String {
    match error.reason() {
        Some(reason) if error.is_reset() => format!("reset: {reason:?}"),
        Some(reason) => format!("connection ended: {reason:?}"),
        None => "connection ended".into(),
    }
}
