//! h2spec, which plays the client's part of RFC 7540 and HPACK frame by frame, against the program.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// What may fail, by section and words, and why that is right.
const ARGUED: &[(&str, &str, &str)] = &[(
    "http2/3.5",
    "Sends invalid connection preface",
    "the connection is ended as RFC 9113, 3.4 asks; but one that does not begin as HTTP/2 is taken for HTTP/1 and told \
     400, or is reset with its bytes unread, and h2spec takes both for an error of its own",
)];

/// Cases of h2spec 2.2.1. Fewer would say that it did not get through.
const CASES: usize = 145;

#[test]
fn h2spec_passes_with_prior_knowledge() {
    play(false);
}

#[test]
fn h2spec_passes_over_tls() {
    play(true);
}

fn play(tls: bool) {
    let Some(h2spec) = testkit::peers::need("h2spec") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (upstream, host) = (upstream(), own_address(tls));
    let _proxy = Proxy::start(host, &bootstrap(host, upstream, tls, folder.path()), folder.path());
    let report = folder.path().join("report.xml");
    let mut command = Command::new(h2spec);
    command
        .args(["-h", &host.ip().to_string(), "-p", &host.port().to_string(), "-o", "1", "-j"])
        .arg(&report);
    if tls {
        command.args(["-t", "-k"]);
    }
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout);
    let (passed, failed) = read(&std::fs::read_to_string(&report).unwrap_or_default());
    println!("{passed} passed, failed: {failed:?}");
    assert_eq!(passed + failed.len(), CASES, "{words}");
    let unexpected: Vec<_> = failed
        .iter()
        .filter(|(s, c)| !ARGUED.iter().any(|(section, case, _)| section == s && case == c))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:?}\n{}", words.split("Failures:").last().unwrap_or_default());
}

/// How many cases of a report passed, and section and words of those that did not.
fn read(report: &str) -> (usize, Vec<(String, String)>) {
    let attribute = |case: &str, name: &str| {
        let value = case.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
        value.unwrap_or_default().replace("&#34;", "\"").replace("&quot;", "\"")
    };
    let (mut passed, mut failed) = (0, Vec::new());
    for case in report.split("<testcase ").skip(1) {
        let case = case.split("</testcase>").next().unwrap_or_default();
        if case.contains("<failure") || case.contains("<error") || case.contains("<skipped") {
            failed.push((attribute(case, "package"), attribute(case, "classname")));
        } else {
            passed += 1;
        }
    }
    (passed, failed)
}

/// A loopback address that no other test of this machine has.
fn own_address(tls: bool) -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, 32 + high % 32, low, 1 + u8::from(tls)), 18080))
}

/// An HTTP/1 server that answers when it has heard the whole request, and not before.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || while answer(&stream).is_some() {});
        }
    });
    address
}

fn answer(stream: &TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut chunked) = (0, false);
    loop {
        let line = line(&mut reader)?;
        match line.split_once(": ") {
            Some(("content-length", n)) => length = n.parse().ok()?,
            Some(("transfer-encoding", _)) => chunked = true,
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    reader.by_ref().take(length).read_to_end(&mut Vec::new()).ok()?;
    while chunked {
        let size = u64::from_str_radix(&line(&mut reader)?, 16).ok()?;
        reader.by_ref().take(size).read_to_end(&mut Vec::new()).ok()?;
        line(&mut reader)?;
        chunked = size > 0;
    }
    (&*stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").ok()
}

fn line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    Some(line.trim_end().to_owned())
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn bootstrap(host: SocketAddr, upstream: SocketAddr, tls: bool, folder: &Path) -> Value {
    let mut chain = json!({"filters": [{
        "name": "http",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]},
            "http_filters": [{"name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        },
    }]});
    if tls {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let file = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            json!({"filename": path})
        };
        let certificate = file("cert.pem", made.cert.pem());
        let key = file("key.pem", made.signing_key.serialize_pem());
        chain["transport_socket"] = json!({"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificates": [{"certificate_chain": certificate, "private_key": key}],
            },
        }});
    }
    json!({
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {
            "listeners": [{"name": "l", "address": socket(host), "filter_chains": [chain]}],
            "clusters": [{"name": "up", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
                "cluster_name": "up",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(upstream)}}]}]}}],
        },
    })
}

/// The program, ended with the test.
struct Proxy(Child);

impl Proxy {
    fn start(host: SocketAddr, bootstrap: &Value, folder: &Path) -> Self {
        let config = folder.join("bootstrap.json");
        std::fs::write(&config, bootstrap.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mizzen-proxy"));
        command.args(["--concurrency", "1", "--config"]).arg(config).stdin(Stdio::null());
        let mut proxy = Self(command.env("MIZZEN_LOG", "error").spawn().unwrap());
        for _ in 0..300 {
            if TcpStream::connect(host).is_ok() {
                return proxy;
            }
            assert!(proxy.0.try_wait().unwrap().is_none(), "the proxy ended");
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the proxy does not serve");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
