//! What attackers send over HTTP/1, byte by byte: what they are answered, and what the upstream saw of it.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Seen, cluster, hcm, listener, route, start, upstream};
use proxy::Handle;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine";
const PATIENCE: Duration = Duration::from_secs(10);

/// A class with what is sent, the statuses answered, and the request lines that the upstream sees.
type Row<'a> = (&'a str, &'a [u8], &'a [u16], &'a [&'a str]);

/// Reads one request as RFC 9112 asks and says its first line and trailers; nothing where it is cut off.
async fn read_request(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut first = line(reader).await?;
    let (mut length, mut chunked) = (0, false);
    loop {
        let header = line(reader).await?.to_ascii_lowercase();
        match header.split_once(": ") {
            Some(("content-length", n)) => length = n.parse().ok()?,
            Some(("transfer-encoding", "chunked")) => chunked = true,
            _ if header.is_empty() => break,
            _ => {}
        }
    }
    skip(reader, length).await?;
    while chunked {
        let size = usize::from_str_radix(&line(reader).await?, 16).ok()?;
        skip(reader, size).await?;
        chunked = size > 0;
        let mut trailer = line(reader).await?;
        while !trailer.is_empty() {
            first = format!("{first} with {trailer}");
            trailer = line(reader).await?;
        }
    }
    Some(first)
}

async fn line(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut bytes = Vec::new();
    reader.read_until(b'\n', &mut bytes).await.ok()?;
    let text = bytes.strip_suffix(b"\r\n")?;
    Some(text.iter().map(|b| char::from(*b)).collect())
}

async fn skip(reader: &mut BufReader<TcpStream>, length: usize) -> Option<()> {
    reader.read_exact(&mut vec![0; length]).await.ok().map(drop)
}

/// An upstream that gives `first` to its first request and `FINE` to all others.
async fn answering(first: &'static [u8]) -> (SocketAddr, Seen) {
    let asked = Arc::new(AtomicUsize::new(0));
    upstream(move |stream, seen| {
        let asked = asked.clone();
        async move {
            let mut reader = BufReader::new(stream);
            while let Some(request) = read_request(&mut reader).await {
                seen.push(request);
                let answer = if asked.fetch_add(1, Ordering::Relaxed) == 0 { first } else { FINE.as_bytes() };
                if reader.get_mut().write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

async fn proxy_before(up: SocketAddr, more: Value) -> (Handle, SocketAddr) {
    let mut hcm = hcm(route(json!({"cluster": "up"})));
    let fields = hcm["typedConfig"].as_object_mut().unwrap();
    fields.extend(more.as_object().cloned().unwrap_or_default());
    let handle = start(vec![listener("l", json!([hcm]))], vec![cluster("up", &[up])], 1).await;
    let address = handle.address("l").await.unwrap();
    (handle, address)
}

/// All that comes back until the proxy ends the connection.
async fn told(address: SocketAddr, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(sent).await;
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(read.is_ok(), "the connection stays open after {:?}: {text}", String::from_utf8_lossy(sent));
    text
}

fn statuses(told: &str) -> Vec<u16> {
    told.split("HTTP/1.1 ").skip(1).filter_map(|t| t.get(..3)?.parse().ok()).collect()
}

/// Plays all rows and says which differ.
async fn play(rows: &[Row<'_>], more: Value) {
    let (up, seen) = answering(FINE.as_bytes()).await;
    let (handle, address) = proxy_before(up, more).await;
    let mut wrong = Vec::new();
    for (name, sent, expected, requests) in rows {
        let before = seen.len();
        let got = told(address, sent).await;
        let saw: Vec<String> = seen.all().split_off(before);
        if statuses(&got) != *expected || saw != *requests {
            wrong.push(format!("{name}: {:?} got {got:?}; upstream: {saw:?}", String::from_utf8_lossy(sent)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    handle.stop().await;
}

/// A POST with these headers and this body, and behind it what would be smuggled.
fn post(rest: &str) -> Vec<u8> {
    format!(
        "POST / HTTP/1.1\r\nhost: a\r\n{rest}GET /smuggled HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    )
    .into_bytes()
}

#[tokio::test]
async fn nul_and_ill_formed_header_bytes_are_400() {
    let bad: &[&[u8]] = &[
        b"x: a\0b",
        b"x\0: a",
        b"x: a\x01b",
        b"x: a\x7fb",
        b"x: a\rb",
        b"x: a\nb",
        b"x y: a",
        b"x : a",
        b"x\xff: a",
        b"x(: a",
        b": a",
        b"no colon",
        b" x: a",
        b"x: a\r\n folded",
        b"x: a\r\n\tfolded",
    ];
    let mut all: Vec<Vec<u8>> =
        bad.iter().map(|line| [b"GET / HTTP/1.1\r\nhost: a\r\n", *line, b"\r\n\r\n"].concat()).collect();
    for target in [&b"/\0"[..], b"/\x7f", b"/a\tb", b"/\x80", b"/a\rb", b"/#frag", b"x"] {
        all.push([b"GET ", target, b" HTTP/1.1\r\nhost: a\r\n\r\n"].concat());
    }
    let rows: Vec<Row<'_>> = all.iter().map(|sent| ("ill-formed", &sent[..], &[400][..], &[][..])).collect();
    play(&rows, json!({})).await;
}

#[tokio::test]
async fn lengths_that_can_be_read_in_two_ways_are_refused() {
    let refused = |status: &'static [u16], headers: &[&str]| -> Vec<(Vec<u8>, &'static [u16])> {
        headers.iter().map(|h| (post(&format!("{h}\r\n\r\n0\r\n\r\n")), status)).collect()
    };
    let mut all = refused(
        &[400],
        &[
            "content-length: 5\r\ntransfer-encoding: chunked",
            "transfer-encoding: chunked\r\ncontent-length: 5",
            "content-length: +5",
            "content-length: -5",
            "content-length: 5 5",
            "content-length: 5, 5",
            "content-length: 5,",
            "content-length: 0x5",
            "content-length: 5x",
            "content-length: \"5\"",
            "content-length:",
            "content-length: 18446744073709551616",
            "content-length: 99999999999999999999999",
            "content-length: 5\r\ncontent-length: 5",
            "content-length: 5\r\ncontent-length: 6",
            "content-length : 5",
            "content-length\0: 5",
            "transfer-encoding : chunked",
            "transfer-encoding\0: chunked",
            "transfer-encoding: chunked\r\n , identity",
            "host: b\r\ncontent-length: 5",
            "host: a\r\ncontent-length: 5",
        ],
    );
    all.extend(refused(
        &[501],
        &[
            "transfer-encoding: chunked, chunked",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "transfer-encoding: chunked\r\ntransfer-encoding: identity",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: chunked, gzip",
            "transfer-encoding: identity",
            "transfer-encoding: xchunked",
            "transfer-encoding: \"chunked\"",
            "transfer-encoding: chunked;a=b",
            "transfer-encoding:",
        ],
    ));
    let rows: Vec<Row<'_>> =
        all.iter().map(|(sent, status)| ("two ways", &sent[..], *status, &[][..])).collect();
    play(&rows, json!({})).await;
}

#[tokio::test]
async fn chunks_that_can_be_read_in_two_ways_reach_nobody_as_a_request() {
    let bodies = [
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a\0b\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "zz\r\n0\r\n\r\n",
        "0\r\nbad trailer\r\n\r\n",
        "0\r\nx : y\r\n\r\n",
        "0\r\nx: y\n\r\n",
    ];
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(5000));
    let all: Vec<Vec<u8>> = bodies
        .iter()
        .copied()
        .chain([&long[..]])
        .map(|body| post(&format!("transfer-encoding: chunked\r\n\r\n{body}")))
        .collect();
    let rows: Vec<Row<'_>> = all.iter().map(|sent| ("chunks", &sent[..], &[400][..], &[][..])).collect();
    play(&rows, json!({})).await;
}

#[tokio::test]
async fn what_is_framed_well_is_read_as_it_is_meant() {
    let two = &["POST / HTTP/1.1", "GET /smuggled HTTP/1.1"][..];
    let inside = "GET /inside HTTP/1.1\r\nhost: a\r\n\r\n";
    let all = [
        ("a length", post("content-length: 5\r\n\r\nhello")),
        ("leading zeros", post("content-length: 005\r\n\r\nhello")),
        ("a request within a body", post(&format!("content-length: {}\r\n\r\n{inside}", inside.len()))),
        ("chunks", post("transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")),
        ("chunks in another case", post("Transfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n")),
        ("an extension", post("transfer-encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0;c\r\n\r\n")),
        (
            "a request within a chunk",
            post(&format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{inside}\r\n0\r\n\r\n", inside.len())),
        ),
        (
            "framing among the trailers",
            post("transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\ncontent-length: 33\r\n\r\n"),
        ),
        (
            "a length that the client wants to have removed",
            post("connection: content-length\r\ncontent-length: 5\r\n\r\nhello"),
        ),
        ("an empty line before", [b"\r\n".as_slice(), &post("content-length: 0\r\n\r\n")].concat()),
    ];
    let rows: Vec<Row<'_>> =
        all.iter().map(|(name, sent)| (*name, &sent[..], &[200, 200][..], two)).collect();
    play(&rows, json!({})).await;
}

#[tokio::test]
async fn bodies_of_http_1_0_have_a_length_or_none() {
    let chunked = b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n";
    let kept = b"POST / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let rows: &[Row<'_>] = &[
        ("chunked", chunked, &[400], &[]),
        ("chunked and kept", kept, &[400], &[]),
        (
            "a length",
            b"POST / HTTP/1.0\r\nhost: a\r\ncontent-length: 2\r\n\r\nhiGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
            &[200],
            &["POST / HTTP/1.1"],
        ),
    ];
    play(rows, json!({"httpProtocolOptions": {"acceptHttp10": true}})).await;
    play(&[("not accepted", chunked, &[426], &[])], json!({})).await;
}

#[tokio::test]
async fn hosts_are_one_and_well_formed() {
    let all: Vec<Vec<u8>> = [
        "",
        "host: a\r\nhost: b\r\n",
        "host: a\r\nHost: a\r\n",
        "host: a b\r\n",
        "host: u@a\r\n",
        "host: a/b\r\n",
        "host: a?b\r\n",
        "host: a#b\r\n",
        "host: a\\b\r\n",
        "host:\r\n",
    ]
    .iter()
    .map(|hosts| format!("GET / HTTP/1.1\r\n{hosts}\r\n").into_bytes())
    .collect();
    let rows: Vec<Row<'_>> = all.iter().map(|sent| ("host", &sent[..], &[400][..], &[][..])).collect();
    play(&rows, json!({})).await;
}

#[tokio::test]
async fn early_data_behind_connect_and_upgrades_is_no_request() {
    let connect = b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    play(&[("CONNECT that is not allowed", connect, &[404], &[])], json!({})).await;
    let upgrade = |more: &str| {
        format!(
            "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n{more}\r\n\
             GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
        )
        .into_bytes()
    };
    let (early, sized) = (upgrade(""), upgrade("content-length: 41\r\n"));
    let chunked = upgrade("transfer-encoding: chunked\r\n");
    let other = String::from_utf8_lossy(&early).replace("websocket", "other").into_bytes();
    let rows: &[Row<'_>] = &[
        ("an upgrade that the upstream does not take", &early, &[200], &["GET /chat HTTP/1.1"]),
        ("an upgrade with a body", &sized, &[400], &[]),
        ("an upgrade with chunks", &chunked, &[400], &[]),
        ("an upgrade that is not allowed", &other, &[403], &[]),
    ];
    play(rows, json!({})).await;
}

#[tokio::test]
async fn heads_are_bounded() {
    let head =
        |more: String| format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{more}\r\n").into_bytes();
    let all = [
        ("a long value", head(format!("x: {}\r\n", "a".repeat(70_000))), 431),
        ("a long name", head(format!("{}: x\r\n", "a".repeat(70_000))), 431),
        ("many headers", head("a: b\r\n".repeat(101)), 431),
        ("many more headers", head("a: b\r\n".repeat(5000)), 431),
        ("a long target", format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000)).into_bytes(), 431),
        ("no end", vec![b'a'; 300_000], 431),
        (
            "long trailers",
            post(&format!("transfer-encoding: chunked\r\n\r\n0\r\nx: {}\r\n\r\n", "a".repeat(70_000))),
            431,
        ),
    ];
    for (name, sent, status) in &all {
        let (up, seen) = answering(FINE.as_bytes()).await;
        let (handle, address) = proxy_before(up, json!({})).await;
        let got = statuses(&told(address, sent).await);
        assert!(got == [*status] || *name == "long trailers" && got == [400], "{name}: {got:?}");
        assert_eq!(seen.len(), 0, "{name}");
        handle.stop().await;
    }
}

#[tokio::test]
async fn slow_clients_are_ended() {
    let (up, seen) = answering(FINE.as_bytes()).await;
    let (handle, address) =
        proxy_before(up, json!({"requestHeadersTimeout": "0.3s", "streamIdleTimeout": "0.3s"})).await;
    for (half, status) in [
        ("GET / HT", None),
        ("\r\n", None),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf", Some(408)),
    ] {
        let got = statuses(&told(address, half.as_bytes()).await);
        assert!(got.is_empty() || got == [408] && status.is_none_or(|s| s == 408), "{half:?}: {got:?}");
    }
    // A byte now and then does not prolong it.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let began = tokio::time::Instant::now();
    let mut every = tokio::time::interval(Duration::from_millis(50));
    let mut answer = [0; 256];
    loop {
        tokio::select! {
            read = stream.read(&mut answer) => if read.unwrap_or(0) == 0 { break },
            _ = every.tick() => { let _ = stream.write_all(b"G").await; }
        }
        assert!(began.elapsed() < PATIENCE, "a slow head is read for ever");
    }
    assert_eq!(seen.len(), 0);
    handle.stop().await;
}

#[tokio::test]
async fn answers_that_can_be_read_in_two_ways_poison_nobody() {
    const POISON: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let bad = [
        (
            "both lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Some(502),
        ),
        ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-length: 5\r\n\r\n", Some(502)),
        ("a list of lengths", "HTTP/1.1 200 OK\r\ncontent-length: 0, 0\r\n\r\n", Some(502)),
        ("a signed length", "HTTP/1.1 200 OK\r\ncontent-length: +0\r\n\r\n", Some(502)),
        (
            "a coding nobody knows",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            Some(502),
        ),
        ("HTTP/1.0 in chunks", "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Some(502)),
        ("a NUL", "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n", Some(502)),
        ("a bare line feed", "HTTP/1.1 200 OK\ncontent-length: 0\n\n", Some(502)),
        ("a folded header", "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n", Some(502)),
        ("a blank before the colon", "HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n", Some(502)),
        (
            "an upgrade nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            Some(502),
        ),
        ("no status", "HTTP/1.1 OK\r\n\r\n", Some(502)),
        ("an answer behind the answer", FINE, Some(200)),
        ("a body without leave", "HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nfine", Some(204)),
        (
            "a body of what is unchanged",
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\nfine",
            Some(304),
        ),
        ("bad chunks", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n+0\r\n\r\n", None),
        (
            "a chunk that overflows",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            None,
        ),
    ];
    let ask = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let mut wrong = Vec::new();
    for (name, answer, expected) in bad {
        let poisoned: &'static str = format!("{answer}{POISON}").leak();
        let (up, seen) = answering(poisoned.as_bytes()).await;
        let (handle, address) = proxy_before(up, json!({})).await;
        let first = told(address, ask).await;
        let second = told(address, ask).await;
        let status = statuses(&first);
        if expected.is_some_and(|e| status != [e]) || first.contains("poison") || status.len() > 1 {
            wrong.push(format!("{name}: first {first:?}"));
        }
        if !second.ends_with("fine") || seen.len() != 2 {
            wrong.push(format!("{name}: second {second:?} of {:?}", seen.all()));
        }
        handle.stop().await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn an_answer_to_head_or_to_an_upgrade_poisons_nobody() {
    let ask = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let upgrade = b"GET /u HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    for (first, answer) in [
        (
            &b"HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"[..],
            "HTTP/1.1 200 OK\r\ncontent-length: 55\r\n\r\n",
        ),
        (upgrade, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        (upgrade, "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"),
    ] {
        let poisoned: &'static str =
            format!("{answer}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison").leak();
        let (up, seen) = answering(poisoned.as_bytes()).await;
        let (handle, address) = proxy_before(up, json!({})).await;
        let told_first = told(address, first).await;
        assert!(!told_first.contains("poison"), "{told_first}");
        let second = told(address, ask).await;
        assert!(second.ends_with("fine"), "{second}");
        assert_eq!(seen.len(), 2);
        handle.stop().await;
    }
}
