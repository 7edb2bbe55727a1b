//! Real clients and servers with the program between them: curl, nghttp2's tools, gRPC in Go and in Python.

mod common;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Proxy, bootstrap, own_address};

/// A server of somebody else's, ended with the test.
struct Server(Child, SocketAddr);

impl Server {
    /// One that says on its first line where it listens.
    fn telling(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().parse().unwrap_or_else(|e| panic!("{e}: {line:?} of {command:?}"));
        Self(child, address)
    }

    /// One that is told where.
    fn at(command: &mut Command, address: SocketAddr) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        for _ in 0..300 {
            if std::net::TcpStream::connect(address).is_ok() {
                return Self(child, address);
            }
            assert!(child.try_wait().unwrap().is_none(), "{command:?} ended");
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{command:?} does not serve");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it, and says what it printed; where it fails, that fails the test.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}:\n{text}\n{errors}", output.status);
    text
}

/// nghttpd behind two proxies: one for plaintext, one for TLS.
struct Field {
    folder: tempfile::TempDir,
    plain: SocketAddr,
    tls: SocketAddr,
    _proxies: [Proxy; 2],
    _server: Server,
}

const LARGE: usize = 5_000_000;

fn field(which: u8) -> Option<Field> {
    let nghttpd = testkit::peers::need("nghttpd")?;
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..LARGE).map(|n| (n * 31 % 251) as u8).collect();
    std::fs::write(folder.path().join("large"), bytes).unwrap();
    std::fs::write(folder.path().join("small"), "hello\n").unwrap();
    let [plain, tls, at] = [which, which + 1, which + 2].map(own_address);
    let mut command = Command::new(nghttpd);
    command
        .args(["--no-tls", "--echo-upload", "--trailer", "x-trailer: told", "--htdocs"])
        .arg(folder.path());
    command.arg("--address").arg(at.ip().to_string()).arg(at.port().to_string()).stderr(Stdio::null());
    let server = Server::at(&mut command, at);
    let proxy = |host, tls: Option<&Path>, name: &str| {
        let own = folder.path().join(name);
        std::fs::create_dir(&own).unwrap();
        Proxy::start(host, &bootstrap(host, at, tls, true), &own)
    };
    let proxies = [proxy(plain, None, "one"), proxy(tls, Some(folder.path()), "two")];
    Some(Field { folder, plain, tls, _proxies: proxies, _server: server })
}

impl Field {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    #[track_caller]
    fn is_the_large_one(&self, got: &Path, how: &str) {
        let (got, meant) = (std::fs::read(got).unwrap(), std::fs::read(self.file("large")).unwrap());
        assert!(got == meant, "{how}: {} bytes of {}", got.len(), meant.len());
    }
}

#[test]
fn curl_gets_and_sends_by_every_protocol() {
    let (Some(curl), Some(field)) = (testkit::peers::need("curl"), field(0)) else { return };
    let (http, https) = (format!("http://{}", field.plain), format!("https://{}", field.tls));
    let out = field.file("got");
    let curl = |arguments: &[&str]| {
        let mut command = Command::new(&curl);
        command
            .args(["--silent", "--show-error", "--fail", "--insecure", "--max-time", "60", "--output"])
            .arg(&out);
        run(command.args(["--write-out", "%{http_version} %{http_code} %{num_connects}\n"]).args(arguments))
    };
    let large = format!("@{}", field.file("large").display());
    for (how, base, version) in [
        ("--http1.0", &http, "1.1"),
        ("--http1.1", &http, "1.1"),
        ("--http2", &http, "1.1"),
        ("--http2-prior-knowledge", &http, "2"),
        ("--http1.1", &https, "1.1"),
        ("--http2", &https, "2"),
    ] {
        let (small, file) = (format!("{base}/small"), format!("{base}/large"));
        assert_eq!(curl(&[how, &small]), format!("{version} 200 1\n"), "{how} {small}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "hello\n", "{how}");
        assert_eq!(curl(&[how, &file]), format!("{version} 200 1\n"), "{how} {file}");
        field.is_the_large_one(&out, how);
        assert_eq!(curl(&[how, "--head", &small]), format!("{version} 200 1\n"), "HEAD {how}");
        if how == "--http1.0" {
            continue;
        }
        // curl awaits 100 Continue before so much.
        assert_eq!(curl(&[how, "--data-binary", &large, &small]), format!("{version} 200 1\n"), "POST {how}");
        field.is_the_large_one(&out, &format!("POST {how}"));
        let chunked = ["--header", "transfer-encoding: chunked"];
        let put = [
            &[how, "--upload-file", &large[1..]][..],
            if version == "2" { &[] } else { &chunked },
            &[&small],
        ];
        assert_eq!(curl(&put.concat()), format!("{version} 200 1\n"), "PUT {how}");
        field.is_the_large_one(&out, &format!("PUT {how}"));
        // Of curl 7.88 known: with prior knowledge it does not find its way on a connection that it keeps.
        if how == "--http2-prior-knowledge" {
            continue;
        }
        let twice = curl(&[how, &small, "--output", "/dev/null", &small]);
        assert_eq!(twice, format!("{version} 200 1\n{version} 200 0\n"), "the connection is kept: {how}");
    }
}

#[test]
fn nghttp_gets_and_sends_with_all_that_frames_can_say() {
    let (Some(nghttp), Some(field)) = (testkit::peers::need("nghttp"), field(4)) else { return };
    let large = field.file("large").display().to_string();
    let rows: &[&[&str]] = &[
        &[],
        &["--window-bits=10", "--connection-window-bits=16"],
        &["--padding=200"],
        &["--header-table-size=0"],
        &["--encoder-header-table-size=0"],
        &["--max-concurrent-streams=1"],
        &["--no-dep"],
        &["--weight=1"],
        &["--continuation", "--header=x-long: 1"],
        &["--header=te: trailers", "--trailer=x-mine: 1"],
    ];
    for base in [format!("http://{}", field.plain), format!("https://{}", field.tls)] {
        for row in rows {
            for upload in [false, true] {
                let mut command = Command::new(&nghttp);
                command.args(["--timeout=60"]).args(*row);
                if upload {
                    command.arg(format!("--data={large}"));
                } else if row.iter().any(|a| a.starts_with("--trailer")) {
                    // Only behind a body.
                    continue;
                }
                let out = field.file("got");
                command.arg(format!("{base}/{}", if upload { "small" } else { "large" }));
                command.stdout(std::fs::File::create(&out).unwrap()).stderr(Stdio::null());
                let status = command.stdin(Stdio::null()).status().unwrap();
                assert!(status.success(), "{command:?}");
                field.is_the_large_one(&out, &format!("{command:?}"));
            }
        }
        let told = run(Command::new(&nghttp)
            .args(["--null-out", "--verbose", "--multiply=20"])
            .arg(format!("{base}/small")));
        assert_eq!(told.matches(":status: 200").count(), 20, "{told}");
        assert!(told.contains("x-trailer: told"), "{told}");
    }
}

#[test]
fn h2load_loses_nothing() {
    let (Some(h2load), Some(field)) = (testkit::peers::need("h2load"), field(8)) else { return };
    let large = format!("--data={}", field.file("small").display());
    for (base, arguments) in [
        (format!("http://{}", field.plain), &["--clients=10", "--max-concurrent-streams=20"][..]),
        (format!("https://{}", field.tls), &["--clients=10", "--max-concurrent-streams=20"]),
        (format!("http://{}", field.plain), &["--clients=10", "--h1"]),
        (format!("http://{}", field.plain), &["--clients=3", "--max-concurrent-streams=100", &large]),
    ] {
        let mut command = Command::new(&h2load);
        let told = run(command.arg("--requests=3000").args(arguments).arg(format!("{base}/small")));
        assert!(told.contains("3000 succeeded, 0 failed, 0 errored"), "{told}");
        assert!(told.contains("status codes: 3000 2xx"), "{told}");
    }
}

/// A client's program before the proxy, its server behind it.
fn through(server: &mut Command, client: &mut Command, which: u8, cases: usize) {
    let server = Server::telling(server);
    let folder = tempfile::tempdir().unwrap();
    let host = own_address(which);
    let _proxy = Proxy::start(host, &bootstrap(host, server.1, None, true), folder.path());
    let told = run(client.arg("call").arg(host.to_string()));
    assert!(told.ends_with(&format!("{cases} passed\n")), "{told}");
}

#[test]
fn grpc_of_go_works_through_the_proxy() {
    let Some(grpc) = testkit::peers::need("grpc") else { return };
    through(Command::new(&grpc).arg("serve"), &mut Command::new(&grpc), 12, 14);
}

#[test]
fn grpc_of_python_works_through_the_proxy() {
    let (Some(python), Some(_)) = (testkit::peers::need("python3"), python_package("grpc")) else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers/python/grpc_peer.py");
    let peer = || {
        let mut command = Command::new(&python);
        command.env("PYTHONDONTWRITEBYTECODE", "1").arg(&script);
        command
    };
    through(peer().arg("serve"), &mut peer(), 16, 12);
}

/// A package of the peers' virtual environment.
fn python_package(name: &str) -> Option<PathBuf> {
    let versions =
        std::fs::read_dir(testkit::peers::folder().join("venv/lib")).into_iter().flatten().flatten();
    let found = versions.map(|v| v.path().join("site-packages").join(name)).find(|folder| folder.is_dir());
    if found.is_none() {
        testkit::peers::need(&format!("python's {name}"));
    }
    found
}
