//! The recording upstream: notes what it saw to the byte, and answers what the case says. Over HTTP/1 here, over HTTP/2 in
//! [`upstream_h2`], over plain TCP in [`upstream_tcp`].

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::case::{Answer, FullAnswer, Then};
use crate::message::{Body, Message, Reader, bytes, response};
use crate::tls::agreed;
use crate::{upstream_h2, upstream_tcp};

/// Marks the requests by which a client finds out whether its connection is still served; they are not recorded.
pub const PROBE: &str = "x-probe";

/// One port's server. What it answers is set case by case.
#[derive(Clone, Default)]
pub struct Upstream(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    script: Vec<Answer>,
    turn: usize,
    seen: Vec<Message>,
    checks: Checks,
}

/// Health checks: they come when they come, and are no part of a case's script.
#[derive(Default)]
struct Checks {
    count: usize,
    last: Option<Message>,
}

impl Upstream {
    /// Listens and serves until the runtime ends.
    pub async fn start(address: SocketAddr, tcp: bool, tls: TlsAcceptor) -> std::io::Result<Self> {
        let upstream = Self::default();
        upstream.listen(address, tcp, tls).await?;
        Ok(upstream)
    }

    /// Serves at one more address.
    pub async fn listen(&self, address: SocketAddr, tcp: bool, tls: TlsAcceptor) -> std::io::Result<()> {
        let listener = TcpListener::bind(address).await?;
        let serving = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (upstream, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    if tcp {
                        upstream_tcp::serve(&upstream, stream).await
                    } else {
                        upstream.hear(stream, &tls).await
                    }
                });
            }
        });
        Ok(())
    }

    fn state<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins a case: forgets what was seen.
    pub fn script(&self, answers: &[Answer]) {
        self.state(|s| {
            let checks = std::mem::take(&mut s.checks);
            *s = State { script: answers.to_vec(), checks, ..State::default() };
        });
    }

    /// Waits until that many requests were seen and are whole, or for a moment.
    pub async fn settle(&self, count: usize) {
        let enough = async {
            loop {
                let changed = self.0.changed.notified();
                if self.state(|s| s.seen.len() >= count) {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(300), enough).await;
    }

    pub fn count(&self) -> usize {
        self.state(|s| s.seen.len())
    }

    pub fn seen(&self) -> Vec<Message> {
        self.state(|s| s.seen.clone())
    }

    pub fn next_answer(&self) -> FullAnswer {
        let answer = self.state(|s| {
            let answer = s.script.get(s.turn).or(s.script.last()).cloned();
            s.turn += 1;
            answer
        });
        match answer {
            None => FullAnswer::ok(),
            Some(Answer::Status(status)) => {
                FullAnswer { send: Some(status.to_string()), ..FullAnswer::default() }
            }
            Some(Answer::Text(text)) => FullAnswer { send: Some(text), ..FullAnswer::default() },
            Some(Answer::Full(full)) => full,
        }
    }

    /// The answer to a health check: `/health/STATUS`, and what else the path says.
    pub fn check(&self, message: &Message) -> Option<FullAnswer> {
        let target = message.line.split(' ').nth(1)?;
        let mut parts = target.strip_prefix("/health/")?.split('/');
        let status = parts.next()?;
        let mut send = format!("HTTP/1.1 {status} x\r\ncontent-length: 3\r\n");
        while let Some(part) = parts.next() {
            match part {
                "degraded" => send += "x-envoy-degraded: true\r\n",
                "service" => {
                    let name = parts.next().unwrap_or_default();
                    send += &format!("x-envoy-upstream-healthchecked-cluster: {name}\r\n");
                }
                _ => {}
            }
        }
        self.note_check(message);
        Some(FullAnswer { send: Some(send + "\r\nok!"), ..FullAnswer::default() })
    }

    pub fn note_check(&self, message: &Message) {
        self.state(|s| {
            s.checks.count += 1;
            s.checks.last = Some(message.clone());
        });
        self.0.changed.notify_waiters();
    }

    /// Waits until so many checks came, or for a moment; the last one.
    pub async fn settle_checks(&self, count: usize) -> Option<Message> {
        let enough = async {
            loop {
                let changed = self.0.changed.notified();
                if self.state(|s| s.checks.count >= count) {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(900), enough).await;
        self.state(|s| s.checks.last.clone())
    }

    pub fn note(&self, message: Message) {
        self.state(|s| s.seen.push(message));
        self.0.changed.notify_waiters();
    }

    /// Finds out what the peer speaks by its first bytes.
    async fn hear(&self, mut stream: TcpStream, tls: &TlsAcceptor) {
        let _ = stream.set_nodelay(true);
        let mut first = [0; 3];
        match stream.peek(&mut first).await {
            Ok(3) if first == *b"PRI" => upstream_h2::serve(self, stream, None).await,
            Ok(_) if first[0] == 22 => {
                let Ok(stream) = tls.accept(stream).await else { return };
                let session = stream.get_ref().1;
                let (agreed, http2) = (agreed(session), session.alpn_protocol() == Some(b"h2"));
                if http2 {
                    upstream_h2::serve(self, stream, Some(agreed)).await;
                } else {
                    let (read, write) = tokio::io::split(stream);
                    self.serve(read, write, Some(&agreed)).await;
                }
            }
            _ => {
                let (read, write) = stream.split();
                if self.serve(read, write, None).await {
                    // Closing without lingering tells the peer by a reset.
                    let _ = stream.set_zero_linger();
                }
            }
        }
    }

    /// Until the peer ends, or a script does; whether that was by a reset.
    async fn serve(
        &self,
        read: impl AsyncRead + Unpin,
        mut write: impl AsyncWrite + Unpin,
        agreed: Option<&str>,
    ) -> bool {
        let mut reader = Reader::new(read);
        loop {
            let Ok(mut message) = reader.head().await else { return false };
            message.headers.extend(agreed.map(|agreed| (":tls".to_owned(), agreed.to_owned())));
            let check = self.check(&message);
            let probe = check.is_some() || message.header(PROBE).is_some();
            let answer = match check {
                Some(answer) => answer,
                None if probe => FullAnswer::ok(),
                None => self.next_answer(),
            };
            let head = message.line.starts_with("HEAD ");
            if answer.early {
                send(&mut write, &answer, head).await;
            }
            let whole = reader.body(&mut message, Body::OfRequest).await.is_ok();
            if !probe {
                self.note(message);
            }
            if !whole {
                return false;
            }
            if !answer.early {
                send(&mut write, &answer, head).await;
            }
            match answer.then {
                Then::Keep => {}
                Then::Close => {
                    let _ = write.shutdown().await;
                    return false;
                }
                Then::Reset => return true,
                Then::Echo => {
                    while let Ok(some) = reader.some(usize::MAX).await {
                        if write.write_all(&some).await.is_err() {
                            return false;
                        }
                    }
                    return false;
                }
            }
        }
    }
}

async fn send(write: &mut (impl AsyncWrite + Unpin), answer: &FullAnswer, head: bool) {
    if answer.delay > 0 {
        tokio::time::sleep(Duration::from_millis(answer.delay)).await;
    }
    let Some(short) = &answer.send else { return };
    let mut whole = response(short);
    if head && !short.starts_with("HTTP/") {
        whole.truncate(whole.find("\r\n\r\n").map_or(whole.len(), |at| at + 4));
    }
    for part in whole.split("<pause>") {
        if write.write_all(&bytes(part)).await.is_err() {
            return;
        }
        let _ = write.flush().await;
        if whole.contains("<pause>") {
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }
}
