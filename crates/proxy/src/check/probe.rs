//! One question to one host, over a connection that may be kept for the next.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use decide::{
    CheckKind, GrpcCheck, Headers, HealthCheck, HttpCheck, Known, Request, Response, contains_in_order,
};
use h2::client::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use upstream::{Address, CheckResult, Endpoint};

use crate::cluster::{DialError, Target, TlsOverride, Transport, dial, http2};
use crate::h1::HeadLimits;
use crate::net::Io;
use crate::wire::{
    BodyLength, Conn, Frame, H1Client, H2ClientStream, RequestHead, Reset, Upstream, h2_request_of,
};

const LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, headers: 100 };
/// Of what a TCP server says before it says what is waited for.
const MOST_BYTES: usize = 64 * 1024;

/// A connection to the host, where there is one.
#[derive(Default)]
pub struct Probe {
    connection: Option<Connection>,
    /// What the connection was made by: another target has another transport.
    made_by: Option<Arc<Target>>,
}

enum Connection {
    H1(Box<H1Client>),
    H2(SendRequest<Bytes>, Driver),
    Tcp(Io),
}

/// Dropping it ends the connection.
struct Driver(tokio::task::AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub struct Answer {
    pub result: CheckResult,
    /// Whether the service's name was looked at.
    pub verified: bool,
}

impl From<CheckResult> for Answer {
    fn from(result: CheckResult) -> Self {
        Self { result, verified: false }
    }
}

/// There was no answer, for whatever reason.
struct NoAnswer;

impl From<DialError> for NoAnswer {
    fn from(_: DialError) -> Self {
        Self
    }
}

impl From<Reset> for NoAnswer {
    fn from(_: Reset) -> Self {
        Self
    }
}

impl From<std::io::Error> for NoAnswer {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

impl From<h2::Error> for NoAnswer {
    fn from(_: h2::Error) -> Self {
        Self
    }
}

/// An answer as far as it matters.
struct Received {
    response: Response,
    body: BytesMut,
    trailers: Option<Headers>,
}

impl Probe {
    /// Asks once. The caller bounds the time, and closes the connection when it is over.
    pub async fn ask(
        &mut self,
        check: &HealthCheck,
        target: &Arc<Target>,
        endpoint: &Endpoint,
        timeout: Duration,
    ) -> Answer {
        if self.made_by.as_ref().is_some_and(|by| !Arc::ptr_eq(by, target)) {
            self.close();
        }
        let site = Site { check, target, endpoint };
        let asked = match &check.kind {
            CheckKind::Http(http) => self.http(&site, http).await,
            CheckKind::Tcp { send, receive } => self.tcp(&site, send.as_ref(), receive).await,
            CheckKind::Grpc(grpc) => self.grpc(&site, grpc, timeout).await,
        };
        let answer = asked.unwrap_or_else(|_| {
            self.close();
            CheckResult::Network.into()
        });
        if check.reuse_connection && self.connection.is_some() {
            self.made_by = Some(Arc::clone(target));
        } else {
            self.close();
        }
        answer
    }

    pub fn close(&mut self) {
        self.connection = None;
        self.made_by = None;
    }

    async fn http(&mut self, site: &Site<'_>, check: &HttpCheck) -> Result<Answer, NoAnswer> {
        let request = check.request(&site.target.name, site.endpoint, site.is_secure());
        let head = request_head(request, check.send.as_ref());
        let received = self.exchange(site, head, check.send.clone(), check.http2, check.body_limit).await?;
        let verified = check.verifies(&received.response);
        let result = check.judge(&received.response, &received.body);
        Ok(Answer { result, verified })
    }

    async fn grpc(
        &mut self,
        site: &Site<'_>,
        check: &GrpcCheck,
        timeout: Duration,
    ) -> Result<Answer, NoAnswer> {
        let message = check.message();
        let request = check.request(&site.target.name, site.endpoint, site.is_secure(), timeout);
        let head = RequestHead { request, body: BodyLength::Unknown };
        let received = self.exchange(site, head, Some(message), true, MOST_BYTES).await?;
        let status = |headers: &Headers| headers.known_str(Known::GrpcStatus)?.parse().ok();
        let grpc_status =
            received.trailers.as_ref().and_then(status).or_else(|| status(&received.response.headers));
        Ok(check.judge(&received.response, &received.body, grpc_status).into())
    }

    /// Sends a request and takes in its answer; the connection stays if it can carry another.
    async fn exchange(
        &mut self,
        site: &Site<'_>,
        head: RequestHead,
        body: Option<Bytes>,
        http2: bool,
        keep: usize,
    ) -> Result<Received, NoAnswer> {
        let mut shared = None;
        if let Some(Connection::H1(client)) = &mut self.connection
            && is_stale(client).await
        {
            self.connection = None;
        }
        let mut upstream = match self.connection.take() {
            Some(Connection::H1(mut client)) if !http2 => {
                client.send_head(&head);
                Upstream::H1(client)
            }
            Some(Connection::H2(send, driver)) if http2 => {
                let stream = open_stream(&send, &head, body.is_none()).await?;
                shared = Some((send, driver));
                Upstream::H2(stream)
            }
            _ if http2 => {
                let (send, driver) = site.connect_h2().await?;
                let stream = open_stream(&send, &head, body.is_none()).await?;
                shared = Some((send, driver));
                Upstream::H2(stream)
            }
            _ => {
                let mut client = Box::new(H1Client::new(Conn::new(site.connect().await?), LIMITS));
                client.send_head(&head);
                Upstream::H1(client)
            }
        };
        if let Some(body) = body {
            upstream.send_data(body);
            upstream.send_end(None);
        } else if matches!(upstream, Upstream::H1(_)) {
            upstream.send_end(None);
        }
        let received = receive(&mut upstream, keep).await?;
        self.connection = match upstream {
            Upstream::H1(mut client) => client.reusable().then_some(Connection::H1(client)),
            Upstream::H2(_) => shared.map(|(send, driver)| Connection::H2(send, driver)),
        };
        Ok(received)
    }

    async fn tcp(
        &mut self,
        site: &Site<'_>,
        send: Option<&Bytes>,
        receive: &[Bytes],
    ) -> Result<Answer, NoAnswer> {
        let mut io = match self.connection.take() {
            Some(Connection::Tcp(io)) => io,
            _ => site.connect().await?,
        };
        let healthy = Answer::from(CheckResult::Healthy { degraded: false });
        if receive.is_empty() {
            return Ok(healthy);
        }
        if let Some(send) = send {
            io.write_all(send).await?;
            io.flush().await?;
        }
        let mut received = BytesMut::new();
        while !contains_in_order(&received, receive) {
            let full = received.len() >= MOST_BYTES;
            if full || io.read_buf(&mut received).await? == 0 {
                return Err(NoAnswer);
            }
        }
        self.connection = Some(Connection::Tcp(io));
        Ok(healthy)
    }
}

/// Who is asked, and how it is reached.
struct Site<'a> {
    check: &'a HealthCheck,
    target: &'a Target,
    endpoint: &'a Endpoint,
}

impl Site<'_> {
    fn transport(&self) -> Option<&Transport> {
        let Some(labels) = &self.check.transport_labels else {
            return self.target.transport(self.endpoint).map(|(_, transport)| transport);
        };
        self.target.transports.iter().find(|transport| transport.labels.iter().all(|l| labels.contains(l)))
    }

    fn is_secure(&self) -> bool {
        self.transport().is_some_and(|transport| transport.tls.is_some())
    }

    async fn connect(&self) -> Result<Io, NoAnswer> {
        let transport = self.transport().ok_or(NoAnswer)?;
        let address: &Address = self.endpoint.check.address.as_ref().unwrap_or(&self.endpoint.address);
        let with = TlsOverride { sni: None, alpn: self.check.alpn.clone() };
        let target = self.target;
        let way = (&target.connect, target.outside.as_ref());
        Ok(dial(address, way, transport.tls.as_deref(), &with, target.connect_timeout).await?)
    }

    async fn connect_h2(&self) -> Result<(SendRequest<Bytes>, Driver), NoAnswer> {
        let io = self.connect().await?;
        let settings = &self.target.config.http;
        let (send, connection) = http2::builder(settings).handshake::<_, Bytes>(io).await?;
        let driven = http2::drive(connection, settings.keepalive);
        Ok((send, Driver(tokio::task::spawn_local(driven).abort_handle())))
    }
}

fn request_head(request: Request, body: Option<&Bytes>) -> RequestHead {
    let body = body.map_or(BodyLength::None, |body| BodyLength::Known(body.len() as u64));
    RequestHead { request, body }
}

async fn is_stale(client: &mut H1Client) -> bool {
    poll_fn(|cx| Poll::Ready(client.poll_stale(cx))).await
}

async fn open_stream(
    send: &SendRequest<Bytes>,
    head: &RequestHead,
    end: bool,
) -> Result<H2ClientStream, NoAnswer> {
    let mut sender = send.clone().ready().await?;
    let mut message = h2_request_of(head)?;
    message.headers_mut().remove("host");
    let (response, stream) = sender.send_request(message, end)?;
    Ok(H2ClientStream::new(response, stream, end))
}

/// The whole answer, of whose body the first `keep` bytes are kept.
async fn receive(upstream: &mut Upstream, keep: usize) -> Result<Received, NoAnswer> {
    let head = loop {
        let head = poll_fn(|cx| {
            let _ = upstream.poll_flush(cx);
            upstream.poll_head(cx)
        })
        .await?;
        if head.response.status >= 200 {
            break head;
        }
    };
    let mut received = Received { response: head.response, body: BytesMut::new(), trailers: None };
    loop {
        let frame = poll_fn(|cx| {
            let _ = upstream.poll_flush(cx);
            upstream.poll_body(cx)
        });
        match frame.await? {
            Frame::Data(data) => {
                let room = keep.saturating_sub(received.body.len()).min(data.len());
                received.body.extend_from_slice(&data[..room]);
            }
            Frame::Trailers(trailers) => {
                received.trailers = Some(trailers);
                return Ok(received);
            }
            Frame::End => return Ok(received),
        }
    }
}
