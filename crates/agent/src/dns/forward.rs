//! Asking the resolvers that the machine had: with a bound on time, size and number.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::message::Query;
use crate::egress::Egress;

/// One resolver is waited for this long before the next is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// More questions than this at once are answered with "server failure".
const MOST_AT_ONCE: usize = 512;
const MOST_RESOLVERS: usize = 3;

/// What `/etc/resolv.conf` says, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub nameservers: Vec<SocketAddr>,
    pub search: Vec<String>,
}

impl ResolvConf {
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A scope such as fe80::1%eth0 cannot be carried into another namespace.
                    if let Some(Ok(ip)) = words.next().map(str::parse) {
                        found.nameservers.push(SocketAddr::new(ip, 53));
                    }
                }
                // The last of several lines counts.
                Some("search" | "domain") => {
                    found.search = words.map(|w| w.trim_end_matches('.').to_ascii_lowercase()).collect();
                }
                _ => {}
            }
        }
        found.nameservers.truncate(MOST_RESOLVERS);
        found
    }

    /// The text that names the resolvers of this machine: `/etc/resolv.conf`, or, where that names a local stub alone, which
    /// no other namespace can reach, what the stub asks.
    pub fn of_machine() -> String {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let usual = read("/etc/resolv.conf");
        if Self::parse(&usual).nameservers.iter().any(|address| !address.ip().is_loopback()) {
            return usual;
        }
        let behind = read("/run/systemd/resolve/resolv.conf");
        if behind.is_empty() { usual } else { behind }
    }

    pub fn read(path: &Path) -> io::Result<Self> {
        std::fs::read_to_string(path).map(|text| Self::parse(&text))
    }
}

/// The resolvers behind us. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Resolvers {
    servers: Arc<[SocketAddr]>,
    egress: Egress,
    permits: Arc<Semaphore>,
}

impl Resolvers {
    pub fn new(servers: impl IntoIterator<Item = SocketAddr>, egress: Egress) -> Self {
        let servers = servers.into_iter().take(MOST_RESOLVERS).collect();
        Self { servers, egress, permits: Arc::new(Semaphore::new(MOST_AT_ONCE)) }
    }

    /// The answer of the first resolver that gives one, as it came but for the id.
    pub async fn ask(&self, query: &Query, message: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let _permit = self.permits.try_acquire().ok()?;
        for server in self.servers.iter() {
            let asked = async {
                if over_tcp {
                    self.over_tcp(*server, query, message).await
                } else {
                    self.over_udp(*server, query, message).await
                }
            };
            match timeout(PATIENCE, asked).await {
                Ok(Ok(mut answer)) => {
                    answer[..2].copy_from_slice(&query.id.to_be_bytes());
                    return Some(answer);
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "resolver failed"),
                Err(_) => tracing::debug!(%server, "resolver did not answer"),
            }
        }
        None
    }

    async fn over_udp(&self, server: SocketAddr, query: &Query, message: &[u8]) -> io::Result<Vec<u8>> {
        // A socket of its own and an id of its own for each question: both must be guessed to forge an answer.
        let socket = self.egress.datagram(server).await?;
        let (id, question) = renumber(message);
        socket.send(&question).await?;
        let mut buffer = vec![0; 4096];
        loop {
            let n = socket.recv(&mut buffer).await?;
            if query.is_answered_by(id, &buffer[..n]) {
                buffer.truncate(n);
                return Ok(buffer);
            }
        }
    }

    async fn over_tcp(&self, server: SocketAddr, query: &Query, message: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = self.egress.connect(server).await?;
        let (id, question) = renumber(message);
        write_framed(&mut stream, &question).await?;
        let answer = read_framed(&mut stream).await?;
        if query.is_answered_by(id, &answer) {
            Ok(answer)
        } else {
            Err(io::Error::other("not an answer to what was asked"))
        }
    }
}

fn renumber(message: &[u8]) -> (u16, Vec<u8>) {
    let id: u16 = rand::random();
    let mut question = message.to_vec();
    question[..2].copy_from_slice(&id.to_be_bytes());
    (id, question)
}

/// A message over TCP: its length in two bytes, then itself.
pub(crate) async fn read_framed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(crate) async fn write_framed(
    stream: &mut (impl tokio::io::AsyncWrite + Unpin),
    message: &[u8],
) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::other("longer than DNS allows"))?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_libraries_read_it() {
        let text = "# c\nnameserver 10.0.0.53 # x\nnameserver ::1\nnameserver nonsense\nsearch a.b. C.d\noptions ndots:5\n";
        let found = ResolvConf::parse(text);
        assert_eq!(found.nameservers, ["10.0.0.53:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
        assert_eq!(found.search, ["a.b", "c.d"]);
        assert_eq!(ResolvConf::parse(""), ResolvConf::default());
    }
}
