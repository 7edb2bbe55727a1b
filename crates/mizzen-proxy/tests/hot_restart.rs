//! A program that is replaced while requests go on: none is lost, and what was open lives on.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const WORKERS: usize = 2;
const LIMIT: Duration = Duration::from_secs(30);

/// An upstream: HTTP/1.1 that answers each request, an echo for WebSockets and for plain TCP.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> Option<()> {
    loop {
        let head = read_head(&mut stream)?;
        if head.starts_with("echo") || head.contains("upgrade: websocket") {
            if head.starts_with("GET") {
                let answer =
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
                stream.write_all(answer.as_bytes()).ok()?;
            }
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() {
                stream.write_all(&byte).ok()?;
            }
            return None;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").ok()?;
    }
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

struct Ports {
    http: u16,
    tcp: u16,
    admin: u16,
}

fn bootstrap(ports: &Ports, up: SocketAddr) -> Value {
    let socket = |port: u16| json!({"socketAddress": {"address": "127.0.0.1", "portValue": port}});
    let hcm = json!({"name": "h", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "statPrefix": "in", "upgradeConfigs": [{"upgradeType": "websocket"}],
        "routeConfig": {"name": "r", "virtualHosts": [{"name": "v", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]},
        "httpFilters": [{"name": "router", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    }});
    let tcp = json!({"name": "t", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "statPrefix": "tcp", "cluster": "up"}});
    let listener = |name: &str, port: u16, filter: &Value| json!({"name": name, "address": socket(port), "filterChains": [{"filters": [filter]}]});
    json!({
        "admin": {"address": socket(ports.admin)},
        "staticResources": {
            "listeners": [listener("http", ports.http, &hcm), listener("tcp", ports.tcp, &tcp)],
            "clusters": [{"name": "up", "type": "STATIC", "connectTimeout": "5s", "loadAssignment": {
                "clusterName": "up", "endpoints": [{"lbEndpoints": [{"endpoint": {"address": socket(up.port())}}]}]}}],
        },
    })
}

fn start(config: &Path, socket: &Path, epoch: u32) -> Child {
    let output = std::fs::File::create(config.with_file_name(format!("output-{epoch}"))).unwrap();
    Command::new(env!("CARGO_BIN_EXE_mizzen-proxy"))
        .args(["--concurrency", &WORKERS.to_string(), "--base-id", "7", "--drain-time-s", "3"])
        .args(["--parent-shutdown-time-s", "20", "--restart-epoch", &epoch.to_string(), "--config"])
        .arg(config)
        .arg("--socket-path")
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap()
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}

fn stat(port: u16, name: &str) -> i64 {
    let text = get(port, "/stats").expect("statistics");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("{name} in {text}"))
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[derive(Default)]
struct Count {
    sent: AtomicUsize,
    failed: AtomicUsize,
    opened: AtomicUsize,
    stop: AtomicBool,
}

impl Count {
    fn note(&self, went: bool) {
        self.sent.fetch_add(1, Relaxed);
        self.failed.fetch_add(usize::from(!went), Relaxed);
    }
}

/// Requests on a connection that is kept until the proxy says that it closes.
fn keep_alive(port: u16, count: &Count) {
    let open = || {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        count.opened.fetch_add(1, Relaxed);
        stream
    };
    let mut stream = open();
    while !count.stop.load(Relaxed) {
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").is_ok();
        let head = asked.then(|| read_head(&mut stream)).flatten().unwrap_or_default();
        let mut body = [0; 2];
        let went = head.starts_with("HTTP/1.1 200") && stream.read_exact(&mut body).is_ok();
        count.note(went);
        if !went || head.contains("connection: close") {
            stream = open();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn fresh(port: u16, count: &Count) {
    while !count.stop.load(Relaxed) {
        count.note(get(port, "/").is_some());
    }
}

/// Streams on connections that are kept until the proxy says GOAWAY: then the next is on a new one, as clients do.
async fn http2(port: u16, count: &Count) {
    let mut client: Option<h2::client::SendRequest<bytes::Bytes>> = None;
    while !count.stop.load(Relaxed) {
        let ready = match client.take() {
            Some(client) => client.ready().await.ok(),
            None => None,
        };
        let mut ready = match ready {
            Some(ready) => ready,
            None => {
                let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (client, connection) = h2::client::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                count.opened.fetch_add(1, Relaxed);
                client.ready().await.unwrap()
            }
        };
        let request = http::Request::get("http://a/").body(()).unwrap();
        let answer = async {
            let (response, _) = ready.send_request(request, true)?;
            let mut body = response.await?.into_body();
            let mut length = 0;
            while let Some(data) = body.data().await {
                length += data?.len();
            }
            Ok::<_, h2::Error>(length)
        };
        match answer.await {
            Ok(length) => {
                count.note(length == 2);
                client = Some(ready);
            }
            // It was not begun: GOAWAY came before it, and says so.
            Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => {}
            Err(error) => {
                eprintln!("HTTP/2: {error:?}");
                count.note(false);
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A stream of bytes that come back, one at a time.
fn held(mut stream: TcpStream) -> impl FnMut() -> bool {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    move || {
        let mut back = [0];
        stream.write_all(b"x").is_ok() && stream.read_exact(&mut back).is_ok()
    }
}

#[test]
fn a_program_is_replaced_and_no_connection_or_request_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (config, socket) = (folder.path().join("bootstrap.json"), folder.path().join("meet"));
    let ports = Ports { http: free_port(), tcp: free_port(), admin: free_port() };
    std::fs::write(&config, bootstrap(&ports, upstream()).to_string()).unwrap();
    let mut old = start(&config, &socket, 0);
    until("the first process serves", || {
        get(ports.http, "/").is_some() && get(ports.admin, "/ready").is_some()
    });

    let mut stream = TcpStream::connect(("127.0.0.1", ports.tcp)).unwrap();
    stream.write_all(b"echo\r\n\r\n").unwrap();
    let mut tcp = held(stream);
    let mut stream = TcpStream::connect(("127.0.0.1", ports.http)).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .unwrap();
    assert!(read_head(&mut stream).unwrap().starts_with("HTTP/1.1 101"));
    let mut websocket = held(stream);
    assert!(tcp() && websocket());

    let counts: Vec<Arc<Count>> = (0..3).map(|_| Arc::default()).collect();
    let mut threads = Vec::new();
    for _ in 0..4 {
        let count = counts[0].clone();
        threads.push(std::thread::spawn(move || keep_alive(ports.http, &count)));
    }
    for _ in 0..2 {
        let count = counts[1].clone();
        threads.push(std::thread::spawn(move || fresh(ports.http, &count)));
    }
    let count = counts[2].clone();
    threads.push(std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::join!(http2(ports.http, &count), http2(ports.http, &count)) });
    }));
    let after = |more: usize| {
        let before: Vec<_> = counts.iter().map(|c| c.sent.load(Relaxed)).collect();
        until("requests go on", || {
            counts.iter().zip(&before).all(|(count, before)| count.sent.load(Relaxed) >= before + more)
        });
    };
    after(200);
    let counted = stat(ports.admin, "http.in.downstream_rq_completed");

    let mut new = start(&config, &socket, 1);
    // The old one keeps what is open, and is gone only when that is.
    let output = config.with_file_name("output-1");
    until("the second process took over", || {
        std::fs::read_to_string(&output).unwrap_or_default().contains("in the place of the one before")
    });
    after(200);
    assert!(old.try_wait().unwrap().is_none(), "what is open keeps the old process");
    assert!(tcp() && websocket(), "what was open is open");
    assert!(stat(ports.admin, "http.in.downstream_rq_completed") > counted, "no counter goes back");
    drop((tcp, websocket));
    until("the old process ends with its last connection", || old.try_wait().unwrap().is_some());
    assert!(old.wait().unwrap().success());
    after(200);
    assert!(stat(ports.admin, "http.in.downstream_rq_completed") > counted + 600, "what it counted is kept");

    for count in &counts {
        count.stop.store(true, Relaxed);
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let output = std::fs::read_to_string(&output).unwrap_or_default();
    for (what, count) in ["keep-alive", "fresh", "HTTP/2"].iter().zip(&counts) {
        let (sent, failed) = (count.sent.load(Relaxed), count.failed.load(Relaxed));
        println!("{what}: {sent} requests, {failed} lost, {} connections", count.opened.load(Relaxed));
        assert_eq!(failed, 0, "{what}: {failed} of {sent} were lost: {output}");
    }
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(new.id() as i32),
        nix::sys::signal::Signal::SIGTERM,
    );
    assert!(new.wait().unwrap().success());
}

#[test]
fn a_process_that_fails_leaves_the_one_before_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (config, socket) = (folder.path().join("bootstrap.json"), folder.path().join("meet"));
    let ports = Ports { http: free_port(), tcp: free_port(), admin: free_port() };
    let good = bootstrap(&ports, upstream());
    std::fs::write(&config, good.to_string()).unwrap();
    let mut old = start(&config, &socket, 0);
    until("the first process serves", || get(ports.http, "/").is_some());
    let mut bad = good.clone();
    bad["staticResources"]["clusters"][0]["connectTimeout"] = json!("-1s");
    std::fs::write(&config, bad.to_string()).unwrap();
    assert!(!start(&config, &socket, 1).wait().unwrap().success());
    for _ in 0..20 {
        assert!(get(ports.http, "/").is_some());
    }
    std::fs::write(&config, good.to_string()).unwrap();
    let mut new = start(&config, &socket, 1);
    until("the old process ends", || old.try_wait().unwrap().is_some());
    assert!(get(ports.http, "/").is_some());
    new.kill().unwrap();
    new.wait().unwrap();
}
