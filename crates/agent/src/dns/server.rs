//! The listening side on port 15053, UDP and TCP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use proto::istio::NameTable;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::forward::{Resolvers, read_framed, write_framed};
use super::message::{AAAA, Code, Query, refuse};
use super::names::{Names, NamesConfig};

/// TCP connections at once, and how long each may be silent.
const MOST_CONNECTIONS: usize = 128;
const IDLE: Duration = Duration::from_secs(10);
const LARGEST: usize = u16::MAX as usize;

#[derive(Debug, Clone)]
pub struct DnsConfig {
    pub names: NamesConfig,
    /// Domains of which nobody but the mesh knows anything: names below them that are not in the table do not exist and
    /// are not asked for elsewhere. Empty on Kubernetes, whose own DNS knows more than the table.
    pub authoritative: Vec<String>,
}

/// The table and the resolvers behind it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dns {
    config: Arc<DnsConfig>,
    names: Arc<ArcSwap<Names>>,
    resolvers: Resolvers,
}

/// Sockets that are bound and not served yet, so that a port in use is known before anything depends on it.
#[derive(Debug)]
pub struct Listening {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Listening {
    /// Both on the same port; 0 takes any.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        let udp = UdpSocket::bind(tcp.local_addr()?).await?;
        Ok(Self { udp, tcp })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl Dns {
    pub fn new(config: DnsConfig, resolvers: Resolvers) -> Self {
        Self { config: Arc::new(config), names: Arc::new(ArcSwap::from_pointee(Names::default())), resolvers }
    }

    /// From the next question on, this is the table.
    pub fn set_table(&self, table: &NameTable) {
        self.names.store(Arc::new(Names::new(table, &self.config.names)));
    }

    pub fn set_names(&self, names: Names) {
        self.names.store(Arc::new(names));
    }

    pub fn names_config(&self) -> &NamesConfig {
        &self.config.names
    }

    /// Answers until it is dropped.
    pub async fn serve(self, listening: Listening) {
        let Listening { udp, tcp } = listening;
        let udp = Arc::new(udp);
        tokio::join!(self.serve_udp(&udp), self.serve_tcp(&tcp));
    }

    async fn serve_udp(&self, socket: &Arc<UdpSocket>) {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, peer) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // An ICMP error of an earlier answer; the socket itself is sound.
                    tracing::debug!(%error, "DNS over UDP");
                    continue;
                }
            };
            let message = &buffer[..length];
            match self.local(message, None) {
                Local::Nothing => {}
                Local::Answer(answer) => {
                    let _ = socket.send_to(&answer, peer).await;
                }
                Local::Ask(query) => {
                    let (dns, socket, message) = (self.clone(), socket.clone(), message.to_vec());
                    tokio::spawn(async move {
                        let answer = dns.elsewhere(&query, &message, false).await;
                        let _ = socket.send_to(&answer, peer).await;
                    });
                }
            }
        }
    }

    async fn serve_tcp(&self, listener: &TcpListener) {
        let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "DNS over TCP");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
            let dns = self.clone();
            tokio::spawn(async move {
                let _ = dns.converse(stream).await;
                drop(permit);
            });
        }
    }

    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let message = timeout(IDLE, read_framed(&mut stream)).await??;
            let answer = match self.local(&message, Some(LARGEST)) {
                Local::Nothing => return Ok(()),
                Local::Answer(answer) => answer,
                Local::Ask(query) => self.elsewhere(&query, &message, true).await,
            };
            timeout(IDLE, write_framed(&mut stream, &answer)).await??;
        }
    }

    /// What can be said without asking anybody.
    fn local(&self, message: &[u8], limit: Option<usize>) -> Local {
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(malformed) => return refuse(malformed).map_or(Local::Nothing, Local::Answer),
        };
        let limit = limit.unwrap_or_else(|| query.udp_limit());
        let known = self.names.load().look_up(&query.name);
        match known {
            // A known host has no addresses but these: NODATA, so that nobody is told otherwise by somebody else.
            Some(mut records) if query.is_address() => {
                if query.kind == AAAA {
                    shuffle(&mut records.v6)
                } else {
                    shuffle(&mut records.v4)
                }
                Local::Answer(query.answer(&records, limit))
            }
            Some(_) if self.is_ours(&query.name) => Local::Answer(query.respond(Code::NoError)),
            None if self.is_ours(&query.name) => Local::Answer(query.respond(Code::NxDomain)),
            _ => Local::Ask(query),
        }
    }

    fn is_ours(&self, name: &str) -> bool {
        let below = |domain: &String| {
            name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.config.authoritative.iter().any(below)
    }

    async fn elsewhere(&self, query: &Query, message: &[u8], over_tcp: bool) -> Vec<u8> {
        match self.resolvers.ask(query, message, over_tcp).await {
            Some(answer) => answer,
            None => query.respond(Code::ServFail),
        }
    }
}

enum Local {
    /// To be dropped.
    Nothing,
    Answer(Vec<u8>),
    Ask(Query),
}

/// Headless services have many addresses, and clients take the first.
fn shuffle<T>(addresses: &mut [T]) {
    use base::Random as _;
    for i in (1..addresses.len()).rev() {
        let j = base::ThreadRandom.below(i as u64 + 1) as usize;
        addresses.swap(i, j);
    }
}

#[cfg(test)]
mod tests {
    use proto::istio::NameInfo;

    use super::*;
    use crate::dns::message::{A, question};
    use crate::egress::Egress;

    fn dns(resolvers: Vec<SocketAddr>) -> Dns {
        let names = NamesConfig {
            namespace: "default".into(),
            service_domain: "svc.cluster.local".into(),
            search: vec!["default.svc.cluster.local".into()],
        };
        let config = DnsConfig { names, authoritative: vec!["cluster.local".into()] };
        let dns = Dns::new(config, Resolvers::new(resolvers, Egress::direct()));
        let info = |ips: Vec<String>| NameInfo { ips, ..NameInfo::default() };
        let many = (0..100).map(|i| format!("10.1.0.{i}")).collect();
        let table = NameTable {
            table: [
                ("reviews.default.svc.cluster.local".to_owned(), info(vec!["10.96.0.1".into()])),
                ("many.default.svc.cluster.local".to_owned(), info(many)),
                ("api.example.com".to_owned(), info(vec!["240.240.0.1".into()])),
            ]
            .into_iter()
            .collect(),
            name_info: None,
        };
        dns.set_table(&table);
        dns
    }

    async fn start(dns: Dns) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listening = Listening::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listening.address().unwrap();
        (address, tokio::spawn(dns.serve(listening)))
    }

    async fn ask_udp(server: SocketAddr, message: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(message, server).await.unwrap();
        let mut buffer = vec![0; 4096];
        let n = timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.unwrap().unwrap();
        buffer.truncate(n);
        buffer
    }

    /// Code and number of answers.
    fn outcome(answer: &[u8]) -> (u8, u8) {
        (answer[3] & 15, answer[7])
    }

    #[tokio::test]
    async fn names_of_the_mesh_are_answered_here_and_others_elsewhere() {
        let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let elsewhere = upstream.local_addr().unwrap();
        let resolver = tokio::spawn(async move {
            let mut asked = Vec::new();
            let mut buffer = [0; 512];
            loop {
                let (n, peer) = upstream.recv_from(&mut buffer).await.unwrap();
                let query = Query::parse(&buffer[..n]).unwrap();
                asked.push(query.name.clone());
                let forged = Query::parse(&question(query.id ^ 1, &query.name, A).unwrap()).unwrap();
                upstream.send_to(&forged.respond(Code::NxDomain), peer).await.unwrap();
                upstream.send_to(&query.respond(Code::Refused), peer).await.unwrap();
                if query.name == "end" {
                    return asked;
                }
            }
        });
        let (server, task) = start(dns(vec![elsewhere])).await;
        let table = [
            ("reviews.default.svc.cluster.local", A, (0, 1)),
            ("reviews.default.svc.cluster.local", AAAA, (0, 0)),
            ("reviews.default.svc.cluster.local", 15, (0, 0)),
            ("nothing.default.svc.cluster.local", A, (3, 0)),
            ("api.example.com.default.svc.cluster.local", A, (0, 2)),
            ("api.example.com", AAAA, (0, 0)),
            ("api.example.com", 15, (5, 0)),
            ("example.org", A, (5, 0)),
            ("end", A, (5, 0)),
        ];
        for (name, kind, expected) in table {
            let answer = ask_udp(server, &question(77, name, kind).unwrap()).await;
            assert_eq!((answer[0], answer[1]), (0, 77), "our own id comes back");
            assert_eq!(outcome(&answer), expected, "{name} {kind}");
        }
        assert_eq!(resolver.await.unwrap(), ["api.example.com", "example.org", "end"]);
        task.abort();
    }

    #[tokio::test]
    async fn a_large_answer_is_cut_over_udp_and_whole_over_tcp() {
        let (server, task) = start(dns(vec![])).await;
        let message = question(5, "many.default.svc.cluster.local", A).unwrap();
        let cut = ask_udp(server, &message).await;
        assert!(cut.len() <= 512 && cut[2] & 2 != 0);
        let mut stream = TcpStream::connect(server).await.unwrap();
        for _ in 0..2 {
            write_framed(&mut stream, &message).await.unwrap();
            assert_eq!(outcome(&read_framed(&mut stream).await.unwrap()), (0, 100));
        }
        task.abort();
    }

    #[tokio::test]
    async fn without_a_resolver_or_sense_there_is_an_error_and_never_silence() {
        let (server, task) = start(dns(vec![])).await;
        let answer = ask_udp(server, &question(5, "example.org", A).unwrap()).await;
        assert_eq!(outcome(&answer), (2, 0));
        let mut garbage = question(5, "a", A).unwrap();
        garbage[12] = 0xff;
        assert_eq!(outcome(&ask_udp(server, &garbage).await), (1, 0));
        task.abort();
    }
}
