//! Connections that stay open: a WebSocket and a Redis subscription, which say whether anything got lost on them.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::websocket;

const PATIENCE: Duration = Duration::from_secs(20);

/// What to hold open until SIGTERM.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Options {
    /// HOST:PORT of a server that sends back what it is sent
    #[arg(long)]
    websocket: Option<String>,
    /// HOST:PORT of a Redis server
    #[arg(long)]
    redis: Option<String>,
    /// Pause between two messages, in milliseconds
    #[arg(long, default_value_t = 20)]
    pause: u64,
}

/// What went through a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub sent: u64,
    /// In the order in which they were sent.
    pub received: u64,
    /// Why it ended before it was asked to.
    pub problem: Option<String>,
}

/// Sends numbered messages and expects each to come before the next is sent.
pub async fn run(options: Options) -> anyhow::Result<Held> {
    let mut stop = signal(SignalKind::terminate())?;
    let mut held = Held::default();
    let pause = Duration::from_millis(options.pause);
    let outcome = match (&options.websocket, &options.redis) {
        (Some(address), _) => through_websocket(address, pause, &mut stop, &mut held).await,
        (None, Some(address)) => through_redis(address, pause, &mut stop, &mut held).await,
        (None, None) => bail!("nothing to hold"),
    };
    held.problem = outcome.err().map(|error| format!("{error:#}"));
    Ok(held)
}

async fn through_websocket(
    address: &str,
    pause: Duration,
    stop: &mut Signal,
    held: &mut Held,
) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await.context("connect")?;
    websocket::ask(&mut stream, address).await?;
    loop {
        let text = held.sent.to_string();
        websocket::write(&mut stream, &text, true).await.context("send")?;
        held.sent += 1;
        let echo = within("an echo", websocket::read(&mut stream)).await?;
        ensure!(echo == text, "sent {text:?} and received {echo:?}");
        held.received += 1;
        if stopped(pause, stop).await {
            return Ok(());
        }
    }
}

async fn through_redis(
    address: &str,
    pause: Duration,
    stop: &mut Signal,
    held: &mut Held,
) -> anyhow::Result<()> {
    let mut subscriber = Redis::connect(address).await?;
    subscriber.say("SUBSCRIBE news").await?;
    ensure!(subscriber.bulk(2).await? == ["subscribe", "news"], "no subscription");
    ensure!(subscriber.line().await? == ":1", "no subscription");
    let mut publisher = Redis::connect(address).await?;
    loop {
        let text = held.sent.to_string();
        publisher.say(&format!("PUBLISH news {text}")).await?;
        let heard = publisher.line().await?;
        ensure!(heard == ":1", "{text:?} was published to {heard:?} subscribers");
        held.sent += 1;
        let message = subscriber.bulk(3).await?;
        ensure!(message == ["message", "news", &text], "published {text:?} and received {message:?}");
        held.received += 1;
        if stopped(pause, stop).await {
            return Ok(());
        }
    }
}

async fn stopped(pause: Duration, stop: &mut Signal) -> bool {
    tokio::select! {
        _ = stop.recv() => true,
        () = tokio::time::sleep(pause) => false,
    }
}

async fn within<T>(what: &str, wait: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::timeout(PATIENCE, wait).await.with_context(|| format!("{what}: not in time"))?
}

/// One connection to a Redis server, in its own protocol.
struct Redis(BufReader<TcpStream>);

impl Redis {
    async fn connect(address: &str) -> anyhow::Result<Self> {
        Ok(Self(BufReader::new(TcpStream::connect(address).await.context("connect")?)))
    }

    async fn say(&mut self, command: &str) -> anyhow::Result<()> {
        Ok(self.0.write_all(format!("{command}\r\n").as_bytes()).await?)
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let read = async {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line).await? > 0, "the server closed the connection");
            Ok(line.trim_end().to_owned())
        };
        within("a line", read).await
    }

    /// The next array's head and its first strings; what else it holds is left.
    async fn bulk(&mut self, strings: usize) -> anyhow::Result<Vec<String>> {
        let head = self.line().await?;
        ensure!(head == "*3", "{head:?} is no message");
        let mut texts = Vec::new();
        for _ in 0..strings {
            let length = self.line().await?;
            let length: usize = length.strip_prefix('$').and_then(|n| n.parse().ok()).context("no string")?;
            let mut text = vec![0; length + 2];
            within("a string", async { Ok(self.0.read_exact(&mut text).await?) }).await?;
            texts.push(String::from_utf8_lossy(&text[..length]).into_owned());
        }
        Ok(texts)
    }
}
