//! Asking the resolvers that the machine had: with a bound on time, size and number.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::message::{A, AAAA, Answer, Query, question, read_answer};
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

    /// The addresses of a name, of the families asked for, and how long they may be kept. The machine's `/etc/hosts` is
    /// read first.
    pub async fn look_up(&self, host: &str, v4: bool, v6: bool) -> io::Result<Found> {
        let wanted = |ip: &IpAddr| if ip.is_ipv4() { v4 } else { v6 };
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Found { addresses: vec![ip], ttl: None });
        }
        let written = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let addresses: Vec<IpAddr> = hosts_file(&written, host).filter(wanted).collect();
        if !addresses.is_empty() {
            return Ok(Found { addresses, ttl: None });
        }
        let (first, second) = tokio::join!(self.records(host, A, v4), self.records(host, AAAA, v6));
        let mut found = Found { addresses: Vec::new(), ttl: None };
        let mut failure = None;
        for answer in [first, second] {
            match answer {
                Ok(Some(answer)) => {
                    let ttl = answer.ttl.map(|ttl| Duration::from_secs(ttl.into()));
                    found.ttl = found.ttl.into_iter().chain(ttl).min();
                    found.addresses.extend(answer.addresses);
                }
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if found.addresses.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    async fn records(&self, host: &str, kind: u16, wanted: bool) -> io::Result<Option<Answer>> {
        const NXDOMAIN: u8 = 3;
        if !wanted {
            return Ok(None);
        }
        let message = question(0, host, kind);
        let message =
            message.ok_or_else(|| io::Error::other(format!("{host:?} is no name that DNS knows")))?;
        let query =
            Query::parse(&message).map_err(|_| io::Error::other(format!("{host:?} is no host name")))?;
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "no resolver answers");
        let malformed = || io::Error::other("the resolver's answer is malformed");
        let answer = self.ask(&query, &message, false).await.ok_or_else(silent)?;
        let mut answer = read_answer(&answer).ok_or_else(malformed)?;
        if answer.truncated {
            let whole = self.ask(&query, &message, true).await.ok_or_else(silent)?;
            answer = read_answer(&whole).ok_or_else(malformed)?;
        }
        match answer.code {
            0 => Ok(Some(answer)),
            NXDOMAIN => Err(io::Error::new(io::ErrorKind::NotFound, "the name does not exist")),
            code => Err(io::Error::other(format!("the resolver answers with code {code}"))),
        }
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

/// What a name was found to stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub addresses: Vec<IpAddr>,
    pub ttl: Option<Duration>,
}

/// The addresses that a text in the form of `/etc/hosts` has for a name.
fn hosts_file<'a>(text: &'a str, host: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
    let host = host.trim_end_matches('.');
    text.lines().filter_map(move |line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let ip = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(ip)
    })
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

    #[test]
    fn a_hosts_file_is_read_without_its_comments() {
        let text = "10.0.0.1 db.local DB # old\n# 10.0.0.2 db.local\nnonsense db.local\n::5 db.local\n";
        let found: Vec<IpAddr> = hosts_file(text, "db.local.").collect();
        assert_eq!(found, ["10.0.0.1".parse::<IpAddr>().unwrap(), "::5".parse().unwrap()]);
        assert_eq!(hosts_file(text, "old").count(), 0);
    }

    #[tokio::test]
    async fn a_name_is_looked_up_at_the_resolver_in_both_families() {
        let resolver = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = resolver.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let Ok((length, peer)) = resolver.recv_from(&mut buffer).await else { return };
                let query = Query::parse(&buffer[..length]).unwrap();
                let records = super::super::message::Records {
                    v4: vec![[192, 0, 2, 7].into()],
                    v6: vec!["2001:db8::7".parse().unwrap()],
                    alias: Some("elsewhere.example".into()),
                };
                let answer = match query.name.as_str() {
                    "here.example" => query.answer(&records, 512),
                    _ => query.respond(super::super::message::Code::NxDomain),
                };
                let _ = resolver.send_to(&answer, peer).await;
            }
        });
        let resolvers = Resolvers::new([at], Egress::direct());
        let both = resolvers.look_up("here.example", true, true).await.unwrap();
        assert_eq!((both.addresses.len(), both.ttl), (2, Some(Duration::from_secs(30))));
        let one = resolvers.look_up("here.example", true, false).await.unwrap();
        assert_eq!(one.addresses, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        let error = resolvers.look_up("nowhere.example", true, true).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        answering.abort();
    }
}
