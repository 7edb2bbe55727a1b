//! The raw client: plays a case over one connection, and says what came back.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::case::Case;
use crate::message::{Body, Ended, Message, Reader, bytes, text};
use crate::observe::Observation;
use crate::upstream::PROBE;

/// How long a silent connection is watched for its end.
const MOMENT: Duration = Duration::from_millis(100);
/// How long a probe may take, and an interim response.
const SHORT: Duration = Duration::from_millis(1500);

/// Connects from that address, by which the access log's lines are told apart.
pub async fn connect(to: SocketAddr, from: IpAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What the client's end of the exchange saw.
pub async fn play<S: AsyncRead + AsyncWrite>(case: &Case, stream: S) -> Observation {
    let (read, write) = tokio::io::split(stream);
    let mut client = Client {
        reader: Reader::new(read),
        write,
        patience: Duration::from_millis(case.patience),
        seen: Observation::default(),
        turn: 0,
        open: true,
        tunnel: false,
    };
    let messages = case.messages();
    let count = messages.len();
    if case.pipeline {
        client.pipeline(&messages, case.half_close).await;
    } else {
        for (i, message) in messages.iter().enumerate() {
            client.exchange(message, case.half_close && i + 1 == count).await;
        }
    }
    client.end(case).await;
    client.seen
}

struct Client<S> {
    reader: Reader<ReadHalf<S>>,
    write: WriteHalf<S>,
    patience: Duration,
    seen: Observation,
    turn: usize,
    open: bool,
    tunnel: bool,
}

impl<S: AsyncRead + AsyncWrite> Client<S> {
    async fn pipeline(&mut self, messages: &[String], half_close: bool) {
        let _ = self.write.write_all(&bytes(&messages.concat())).await;
        if half_close {
            let _ = self.write.shutdown().await;
        }
        for message in messages {
            self.turn += 1;
            self.answer(message, None).await;
        }
    }

    async fn exchange(&mut self, message: &str, half_close: bool) {
        self.turn += 1;
        if !self.open {
            return self.note("end", "connection was closed before");
        }
        if self.tunnel {
            return self.through(message).await;
        }
        let mut early = None;
        for (i, part) in message.split("<continue>").enumerate() {
            if i > 0 {
                early = self.interim().await;
                if early.is_some() {
                    break;
                }
            }
            for (i, part) in part.split("<pause>").enumerate() {
                if i > 0 {
                    tokio::time::sleep(Duration::from_millis(15)).await;
                }
                let _ = self.write.write_all(&bytes(part)).await;
            }
        }
        if half_close {
            let _ = self.write.shutdown().await;
        }
        self.answer(message, early).await;
    }

    /// Waits for an interim response; a final one is handed back.
    async fn interim(&mut self) -> Option<Message> {
        match timeout(SHORT, self.reader.head()).await {
            Ok(Ok(head)) if head.status() / 100 == 1 => {
                self.note_interim(&head);
                None
            }
            Ok(Ok(head)) => Some(head),
            Ok(Err(_)) => None,
            Err(_) => {
                self.note("interim", "none");
                None
            }
        }
    }

    fn note_interim(&mut self, head: &Message) {
        let mut headers: Vec<String> =
            head.headers.iter().map(|(n, v)| format!("{}: {v}", n.to_lowercase())).collect();
        headers.sort();
        let key = format!("{}.interim", self.turn);
        self.seen.append(&key, &format!("{} {}", head.status(), headers.join(", ")));
    }

    async fn answer(&mut self, message: &str, early: Option<Message>) {
        if !self.open {
            return self.note("end", "connection was closed before");
        }
        let patience = self.patience;
        match timeout(patience, self.read(message, early)).await {
            Ok(Ok(())) => {}
            Ok(Err(ended)) => {
                self.open = false;
                self.note("end", name(ended));
            }
            Err(_) => {
                self.open = false;
                self.note("end", "no answer in time");
            }
        }
    }

    async fn read(&mut self, message: &str, early: Option<Message>) -> Result<(), Ended> {
        let mut head = match early {
            Some(head) => head,
            None => loop {
                let head = self.reader.head().await?;
                if head.status() / 100 == 1 && head.status() != 101 {
                    self.note_interim(&head);
                    continue;
                }
                break head;
            },
        };
        let status = head.status();
        let connect = message.starts_with("CONNECT ") && status / 100 == 2;
        self.tunnel = status == 101 || connect;
        let bodiless = message.starts_with("HEAD ") || matches!(status, 204 | 304) || self.tunnel;
        let until_close = !bodiless && !head.is_chunked() && head.header("content-length").is_none();
        let body = if bodiless { Body::None } else { Body::OfResponse };
        let read = self.reader.body(&mut head, body).await;
        self.seen.response(self.turn, &head);
        self.open &= !until_close;
        read
    }

    /// Bytes through an upgraded connection; as many are awaited back.
    async fn through(&mut self, message: &str) {
        let want = bytes(message);
        let _ = self.write.write_all(&want).await;
        let mut back = Vec::new();
        let reading = async {
            while back.len() < want.len() {
                match self.reader.some(want.len() - back.len()).await {
                    Ok(some) => back.extend(some),
                    Err(_) => break,
                }
            }
        };
        let _ = timeout(SHORT, reading).await;
        let back = text(&back);
        self.note("tunnel", &back);
    }

    /// Whether the connection is still of use.
    async fn end(&mut self, case: &Case) {
        if !self.open {
            return self.seen.note("connection", "closed");
        }
        if self.tunnel || !case.probe || case.half_close {
            let state = match timeout(MOMENT, self.reader.some(1)).await {
                Err(_) => "open",
                Ok(Ok(_)) => "sends more",
                Ok(Err(_)) => "closed",
            };
            return self.seen.note("connection", state);
        }
        let probe = format!("GET /probe HTTP/1.1\r\nhost: a.example\r\n{PROBE}: 1\r\n\r\n");
        let _ = self.write.write_all(probe.as_bytes()).await;
        let probed = async {
            let mut head = self.reader.head().await?;
            self.reader.body(&mut head, Body::OfResponse).await?;
            Ok::<_, Ended>(head.status())
        };
        let state = match timeout(SHORT, probed).await {
            Ok(Ok(status)) => format!("kept, then {status}"),
            Ok(Err(_)) => "closed".to_owned(),
            Err(_) => "silent".to_owned(),
        };
        self.seen.note("connection", &state);
    }

    fn note(&mut self, what: &str, value: &str) {
        self.seen.note(&format!("{}.{what}", self.turn), value);
    }
}

fn name(ended: Ended) -> &'static str {
    match ended {
        Ended::Closed => "closed without an answer",
        Ended::Truncated | Ended::Reset => "broken off",
        Ended::Malformed => "malformed",
    }
}
