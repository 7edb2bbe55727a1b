//! The admin port, in Envoy's shapes, so that tools that read Envoy read this.
//!
//! What changes something is POST only. Nothing here is served on the data path's listeners.

mod clusters;
mod handler;
mod logging;

use std::sync::Arc;

use crate::control::Handle;
use crate::h1::HeadLimits;
use crate::net::{Io, Kind};
use crate::wire::{BodyLength, Conn, Downstream, Frame, H1Server, NextRequest, ResponseHead};

/// What a port serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    All,
    Readiness,
    Metrics,
}

/// An answer of the admin port.
struct Answer {
    status: u16,
    content_type: &'static str,
    body: Vec<u8>,
}

impl Answer {
    fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=UTF-8", body: body.into().into_bytes() }
    }

    fn json(value: &serde_json::Value) -> Self {
        let body = serde_json::to_vec_pretty(value).unwrap_or_default();
        Self { status: 200, content_type: "application/json", body }
    }
}

/// Bodies of admin requests are read and thrown away up to this length.
const MAX_BODY: u64 = 64 * 1024;
/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// Serves on this thread until it ends, or until the task is ended. `after_ready`: the process before answers until then.
pub fn listen(
    socket: std::net::TcpListener,
    scope: Scope,
    handle: Handle,
    after_ready: bool,
) -> std::io::Result<tokio::task::AbortHandle> {
    let socket = tokio::net::TcpListener::from_std(socket)?;
    let room = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    let task = tokio::task::spawn_local(async move {
        if after_ready {
            handle.ready().await;
        }
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = socket.accept().await else { continue };
            let handle = handle.clone();
            tokio::task::spawn_local(async move {
                serve(Io::new(Kind::Tcp(stream)), scope, &handle).await;
                drop(permit);
            });
        }
    });
    Ok(task.abort_handle())
}

async fn serve(io: Io, scope: Scope, handle: &Handle) {
    let mut server = H1Server::new(Conn::new(io), HeadLimits::default(), false, true);
    loop {
        let (answer, ended) =
            match tokio::time::timeout(std::time::Duration::from_secs(60), server.next()).await {
                Ok(NextRequest::Request(request)) => match discard_body(&mut server).await {
                    Ok(()) => {
                        let (method, path) = (request.request.method.as_str(), &request.request.path);
                        (handler::handle(handle, scope, method, path).await, false)
                    }
                    Err(answer) => (answer, true),
                },
                Ok(NextRequest::Bad(error)) => (Answer::text(error.status(), format!("{error}\n")), true),
                Ok(NextRequest::Closed | NextRequest::Broken) | Err(_) => return,
            };
        let mut head = ResponseHead::new(answer.status);
        head.body = BodyLength::Known(answer.body.len() as u64);
        head.response.headers.append("content-type", answer.content_type);
        head.response.headers.append("cache-control", "no-cache, max-age=0");
        head.response.headers.append("x-content-type-options", "nosniff");
        server.send_head(&head, None, ended);
        server.send_data(answer.body.into());
        server.send_end(None);
        if std::future::poll_fn(|cx| server.poll_flush(cx)).await.is_err() || ended || !server.reusable() {
            return;
        }
    }
}

/// Reads the body to its end, or says what is wrong with it.
async fn discard_body(server: &mut H1Server) -> Result<(), Answer> {
    let mut down = Downstream::H1(server);
    let mut seen = 0;
    loop {
        match std::future::poll_fn(|cx| down.poll_body(cx)).await {
            Ok(Frame::Data(data)) => seen += data.len() as u64,
            Ok(Frame::End | Frame::Trailers(_)) => return Ok(()),
            Err(_) => return Err(Answer::text(400, "the request body is malformed or incomplete\n")),
        }
        if seen > MAX_BODY {
            return Err(Answer::text(413, "request body too large\n"));
        }
    }
}
