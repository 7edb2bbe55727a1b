//! h2spec, which plays the client's part of RFC 7540 and HPACK frame by frame, against the program.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use common::{Proxy, bootstrap, own_address};

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
    let (upstream, host) = (upstream(), own_address(u8::from(tls)));
    let _proxy =
        Proxy::start(host, &bootstrap(host, upstream, tls.then_some(folder.path()), false), folder.path());
    let report = folder.path().join("report.xml");
    let mut command = Command::new(h2spec);
    command
        .args(["-h", &host.ip().to_string(), "-p", &host.port().to_string(), "-o", "2", "-j"])
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
