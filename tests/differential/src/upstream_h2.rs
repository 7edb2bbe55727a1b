//! The recording upstream over HTTP/2 with prior knowledge: the same scripts, said in frames.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};

use crate::both_h2::{headers, map, read, write};
use crate::case::{FullAnswer, Then};
use crate::message::{Body, Message, Reader, response};
use crate::upstream::{PROBE, Upstream};

/// Until the peer ends, or an answer ends the connection.
pub async fn serve<S>(upstream: &Upstream, stream: S, agreed: Option<String>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::server::Builder::new();
    let Ok(mut connection) = builder.enable_connect_protocol().handshake::<_, Bytes>(stream).await else {
        return;
    };
    let ending = Arc::new(Notify::new());
    let (_alive, over) = watch::channel(());
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = ending.notified() => return,
        };
        let Some(Ok((request, respond))) = accepted else { return };
        let (upstream, agreed) = (upstream.clone(), agreed.clone());
        let ending = Ending { wanted: ending.clone(), over: over.clone() };
        tokio::spawn(async move { exchange(&upstream, request, respond, ending, agreed).await });
    }
}

/// The end of a connection in the midst of its streams.
struct Ending {
    wanted: Arc<Notify>,
    over: watch::Receiver<()>,
}

impl Ending {
    /// Returns when the connection is gone: streams that are let go of before would be reset first, or not.
    async fn of_connection(mut self) {
        self.wanted.notify_one();
        while self.over.changed().await.is_ok() {}
    }
}

async fn exchange(
    upstream: &Upstream,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    ending: Ending,
    agreed: Option<String>,
) {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("", |p| p.as_str());
    let path = target.to_owned();
    let mut message = Message { line: format!("{} {target} HTTP/2", parts.method), ..Message::default() };
    let pseudo =
        [(":scheme", parts.uri.scheme_str()), (":authority", parts.uri.authority().map(|a| a.as_str()))];
    message.headers.extend(pseudo.into_iter().filter_map(|(n, v)| Some((n.to_owned(), v?.to_owned()))));
    if let Some(protocol) = parts.extensions.get::<h2::ext::Protocol>() {
        message.headers.push((":protocol".into(), protocol.as_str().to_owned()));
    }
    message.headers.extend(agreed.map(|agreed| (":tls".to_owned(), agreed)));
    message.headers.extend(headers(&parts.headers));
    if target == "/grpc.health.v1.Health/Check" {
        upstream.note_check(&message);
        return serving(message.header(":authority"), body, &mut respond).await;
    }
    let check = upstream.check(&message);
    let probe = check.is_some() || message.header(PROBE).is_some();
    let answer = match check {
        Some(answer) => answer,
        None if probe => FullAnswer::ok(),
        None => upstream.next_answer(),
    };
    let head = parts.method == http::Method::HEAD;
    if answer.then == Then::Echo {
        upstream.note(Message { complete: true, ..message });
        return echo(&answer, body, &mut respond).await;
    }
    if let Some(script) = &answer.stream {
        let body = converse(&path, script, body, &mut respond).await;
        return upstream.note(Message { body, complete: true, ..message });
    }
    let mut sending = None;
    if answer.early {
        sending = send(&answer, head, &mut respond).await;
    }
    read(body, &mut message).await;
    if let Some(shown) = crate::grpc::shown(&path, &message.body) {
        message.body = crate::message::bytes(&shown);
    }
    if let Some(grpc) = &answer.grpc {
        upstream.note(message);
        tokio::time::sleep(Duration::from_millis(answer.delay)).await;
        return send_grpc(&path, grpc, &mut respond);
    }
    if !probe {
        upstream.note(message);
    }
    if !answer.early {
        sending = send(&answer, head, &mut respond).await;
    }
    match answer.then {
        Then::Keep | Then::Echo => {}
        Then::Reset => respond.send_reset(answer.code.map_or(Reason::INTERNAL_ERROR, Reason::from)),
        Then::Close => {
            if answer.send.is_some() {
                // What was sent goes out first.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            ending.of_connection().await;
        }
    }
    drop(sending);
}

/// A stream both ways, until either ends it: what was said on it.
async fn converse(
    path: &str,
    script: &[serde_json::Value],
    mut body: RecvStream,
    respond: &mut SendResponse<Bytes>,
) -> Vec<u8> {
    let (mut read, mut shown) = (Vec::new(), Vec::new());
    let mut script = script.iter();
    let head = Response::builder().header("content-type", "application/grpc").body(());
    let sent = head.ok().map(|head| respond.send_response(head, false));
    let Some(Ok(mut stream)) = sent else { return Vec::new() };
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        read.extend_from_slice(&data);
        while let Some(message) = crate::grpc::next_message(&mut read) {
            shown.extend(crate::grpc::shown(path, &message));
            let answers = script.next().cloned().unwrap_or_default();
            let answers = answers.as_array().cloned().unwrap_or_else(|| vec![answers]);
            for answer in answers.iter().filter(|answer| !answer.is_null()) {
                if let Some(status) = answer.get("end") {
                    let trailers = vec![("grpc-status".to_owned(), status.to_string())];
                    let _ = stream.send_trailers(map(&trailers));
                    return shown.join("\n").into_bytes();
                }
                if let Some(delay) = answer.get("pause").and_then(serde_json::Value::as_u64) {
                    tokio::time::sleep(Duration::from_millis(delay)).await;
                } else if let Some(message) = crate::grpc::answer(path, answer) {
                    let _ = stream.send_data(message.into(), false);
                }
            }
        }
    }
    shown.join("\n").into_bytes()
}

/// A unary answer.
fn send_grpc(path: &str, message: &serde_json::Value, respond: &mut SendResponse<Bytes>) {
    let Some(body) = crate::grpc::answer(path, message) else { return };
    let head = Response::builder().header("content-type", "application/grpc").body(());
    let Some(Ok(mut stream)) = head.ok().map(|head| respond.send_response(head, false)) else { return };
    let trailers = vec![("grpc-status".to_owned(), "0".to_owned())];
    write(&mut stream, Message { body, trailers, ..Message::default() });
}

/// The answer to a gRPC health check, by who is asked for.
async fn serving(authority: Option<&str>, body: RecvStream, respond: &mut SendResponse<Bytes>) {
    read(body, &mut Message::default()).await;
    let response =
        Response::builder().header("content-type", "application/grpc").body(()).unwrap_or_default();
    let Ok(mut stream) = respond.send_response(response, false) else { return };
    let status = if authority == Some("serving") { 1 } else { 2 };
    let _ = stream.send_data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]), false);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let _ = stream.send_trailers(trailers);
}

async fn parsed(answer: &FullAnswer, head: bool) -> Option<(Message, bool)> {
    tokio::time::sleep(Duration::from_millis(answer.delay)).await;
    let raw = crate::message::bytes(&response(answer.send.as_ref()?));
    let mut reader = Reader::new(&raw[..]);
    let mut message = reader.head().await.ok()?;
    let body =
        if head || matches!(message.status(), 101 | 204 | 304) { Body::None } else { Body::OfResponse };
    let whole = reader.body(&mut message, body).await.is_ok();
    Some((message, whole))
}

/// The stream comes back where more could follow on it.
async fn send(
    answer: &FullAnswer,
    head: bool,
    respond: &mut SendResponse<Bytes>,
) -> Option<SendStream<Bytes>> {
    let (message, whole) = parsed(answer, head).await?;
    let response = built(&message)?;
    let bare = message.body.is_empty() && message.trailers.is_empty();
    let mut stream = respond.send_response(response, bare && whole).ok()?;
    if !whole {
        let _ = stream.send_data(Bytes::from(message.body), false);
        // The rest never comes, but this much does.
        tokio::time::sleep(Duration::from_millis(20)).await;
        return Some(stream);
    }
    if !bare {
        write(&mut stream, message);
    }
    None
}

fn built(message: &Message) -> Option<Response<()>> {
    let mut response = Response::builder().status(message.status()).body(()).ok()?;
    *response.headers_mut() = map(&message.headers);
    Some(response)
}

/// A tunnel: whatever comes goes back.
async fn echo(answer: &FullAnswer, mut body: RecvStream, respond: &mut SendResponse<Bytes>) {
    let Some((message, _)) = parsed(answer, false).await else { return };
    let Some(response) = built(&message) else { return };
    let Ok(mut stream) = respond.send_response(response, false) else { return };
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        if stream.send_data(data, false).is_err() {
            return;
        }
    }
    let _ = stream.send_data(Bytes::new(), true);
}
