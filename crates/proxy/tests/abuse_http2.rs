//! What attackers do with HTTP/2's frames: their connection ends or their stream is reset, others are served meanwhile,
//! the upstream sees nothing of it, and memory stays bounded.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::frames::{
    ACK, CALM, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GET, GOAWAY, HEADERS, OK, PATIENCE, PING,
    POST, PRIORITY, PROTOCOL_ERROR, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, literal,
};
use common::{
    Seen, cluster, echo_upstream, get, hcm, http_proxy, listener, read_message, route, start, stat, status,
    upstream,
};
use proxy::Handle;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What one connection may make this process grow by; the proxy runs in it.
const GROWTH: usize = 24 << 20;

async fn proxy() -> (Handle, SocketAddr, Seen) {
    let (up, seen) = echo_upstream().await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[up]), 1).await;
    (handle, address, seen)
}

async fn others_are_served(address: SocketAddr) {
    assert_eq!(status(&get(address, "/other").await), "200");
}

/// One test at a time: what this process grows by is that one's.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[track_caller]
fn bounded(before: usize) {
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH, "grew by {} KiB", grown >> 10);
}

#[tokio::test]
async fn rapid_reset_ends_the_connection() {
    let _alone = ALONE.lock().await;
    let (handle, address, seen) = proxy().await;
    let mut attacker = Frames::connect(address, &[]).await;
    let open = block(GET, b"/reset", &[]);
    let flood: Vec<u8> = (0..5000u32)
        .flat_map(|n| {
            let id = 2 * n + 1;
            let reset = frame(RST_STREAM, 0, id, &[0, 0, 0, 8]);
            [frame(HEADERS, END_HEADERS | END_STREAM, id, &open), reset].concat()
        })
        .collect();
    attacker.send(&flood).await;
    assert!(matches!(attacker.ended_with().await, Some(CALM) | None));
    others_are_served(address).await;
    assert!(seen.len() < 2500, "the upstream was asked {} times", seen.len());
    handle.stop().await;
}

#[tokio::test]
async fn a_continuation_flood_ends_the_connection() {
    let _alone = ALONE.lock().await;
    let (handle, address, seen) = proxy().await;
    let before = resident();
    for piece in [&literal(b"x", &[b'a'; 100]).repeat(100)[..], b""] {
        let mut attacker = Frames::connect(address, &[]).await;
        attacker.send(&frame(HEADERS, END_STREAM, 1, &block(GET, b"/endless", &[]))).await;
        attacker.flood(&frame(CONTINUATION, 0, 1, piece).repeat(2000)).await;
        assert!(matches!(attacker.ended_with().await, Some(CALM) | None));
    }
    bounded(before);
    others_are_served(address).await;
    assert_eq!(seen.len(), 1);
    handle.stop().await;
}

/// Control frames that are answered: who does not read the answers is not read any more.
#[tokio::test]
async fn ping_and_settings_floods_are_not_buffered() {
    let _alone = ALONE.lock().await;
    let (handle, address, _) = proxy().await;
    let before = resident();
    for one in [frame(PING, 0, 0, b"floodped"), frame(SETTINGS, 0, 0, &[])] {
        let mut attacker = Frames::connect(address, &[]).await;
        let all_taken = attacker.flood(&one.repeat((64 << 20) / one.len())).await;
        assert!(!all_taken, "64 MiB were taken of one who reads nothing");
        others_are_served(address).await;
        bounded(before);
    }
    handle.stop().await;
}

#[tokio::test]
async fn priority_and_acknowledgement_floods_are_not_buffered() {
    let _alone = ALONE.lock().await;
    let (handle, address, _) = proxy().await;
    let before = resident();
    let priorities: Vec<u8> =
        (0..100_000u32).flat_map(|n| frame(PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 16])).collect();
    let pings = frame(PING, ACK, 0, b"floodped").repeat(100_000);
    let windows = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(100_000);
    for flood in [priorities, pings, windows] {
        let mut attacker = Frames::connect(address, &[]).await;
        attacker.flood(&flood).await;
        others_are_served(address).await;
    }
    bounded(before + (4 << 20));
    handle.stop().await;
}

#[tokio::test]
async fn empty_data_frames_end_the_connection() {
    let _alone = ALONE.lock().await;
    let (handle, address, seen) = proxy().await;
    let mut attacker = Frames::connect(address, &[]).await;
    attacker.send(&frame(HEADERS, END_HEADERS, 1, &block(POST, b"/empty", &[]))).await;
    attacker.send(&frame(DATA, 0, 1, &[]).repeat(20_000)).await;
    assert!(matches!(attacker.ended_with().await, Some(CALM) | None));
    others_are_served(address).await;
    assert_eq!(seen.all().iter().filter(|r| r.contains("/other")).count(), 1);
    handle.stop().await;
}

/// Tiny frames to an upstream that does not read are bounded by what they cost, not by what they carry.
#[tokio::test]
async fn tiny_data_frames_are_bounded() {
    let _alone = ALONE.lock().await;
    let (up, _) = upstream(|stream, _| async move {
        tokio::time::sleep(PATIENCE).await;
        drop(stream);
    })
    .await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[up]), 1).await;
    let before = resident();
    let mut attacker = Frames::connect(address, &[]).await;
    attacker.send(&frame(HEADERS, END_HEADERS, 1, &block(POST, b"/tiny", &[]))).await;
    attacker.flood(&frame(DATA, 0, 1, b"x").repeat(1_000_000)).await;
    bounded(before);
    drop(attacker);
    handle.stop().await;
}

/// A client that opens no window keeps a bounded part of the answers waiting, whatever their length.
#[tokio::test]
async fn closed_and_tiny_windows_hold_little_memory() {
    let _alone = ALONE.lock().await;
    let (up, _) = upstream(|mut stream, _| async move {
        while read_message(&mut stream).await.is_some() {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 67108864\r\n\r\n";
            let _ = stream.write_all(head).await;
            let piece = [b'x'; 65536];
            for _ in 0..1024 {
                if stream.write_all(&piece).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[up]), 1).await;
    let before = resident();
    for window in [0u32, 1] {
        let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
        let mut attacker = Frames::connect(address, &setting).await;
        for n in 0..20u32 {
            let id = 2 * n + 1;
            attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, id, &block(GET, b"/large", &[]))).await;
        }
        for _ in 0..20 {
            while attacker.next().await.unwrap().kind != HEADERS {}
        }
        bounded(before);
    }
    handle.stop().await;
}

/// Few bytes that mean many: a dynamic entry referred to again and again.
#[tokio::test]
async fn hpack_and_cookie_amplification_are_refused() {
    let _alone = ALONE.lock().await;
    let (handle, address, seen) = proxy().await;
    let before = resident();
    for name in [&b"x-bomb"[..], b"cookie"] {
        let value = [b'c'; 100];
        let mut bomb = block(GET, b"/bomb", &[]);
        bomb.extend([&[0x40, name.len() as u8][..], name, &[value.len() as u8], &value].concat());
        bomb.extend([0xbe].repeat(15_000));
        let mut attacker = Frames::connect(address, &[]).await;
        attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)).await;
        let mut answered = Vec::new();
        while let Some(frame) = attacker.next().await {
            if frame.stream == 1 || frame.kind == GOAWAY {
                answered.push(frame);
                break;
            }
        }
        assert!(
            answered.iter().all(|f| f.kind != HEADERS || f.payload != [0x88]),
            "answered as if nothing were: {answered:?}"
        );
        others_are_served(address).await;
    }
    bounded(before);
    assert!(seen.all().iter().all(|r| r.contains("/other")), "{:?}", seen.all());
    handle.stop().await;
}

#[tokio::test]
async fn more_headers_than_allowed_are_refused_as_in_http_1() {
    let _alone = ALONE.lock().await;
    let (handle, address, seen) = proxy().await;
    let mut attacker = Frames::connect(address, &[]).await;
    let many = block(GET, b"/many", &[(&b"a"[..], &b"b"[..]); 101]);
    attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &many)).await;
    let answer = attacker.fate(1).await.expect("an answer");
    assert!(!answer.starts_with(&[0x88]), "200: {answer:02x?}");
    assert_eq!(seen.len(), 0);
    others_are_served(address).await;
    handle.stop().await;
}

#[tokio::test]
async fn what_cannot_stand_in_http_1_resets_its_stream_and_reaches_nobody() {
    let _alone = ALONE.lock().await;
    let (handle, address, seen) = proxy().await;
    let good = |more| block(GET, b"/", more);
    let with = |path: &[u8]| block(GET, path, &[]);
    let authority = |a: &[u8]| [GET, &[0x84][..], &literal(b":authority", a)].concat();
    let method =
        |m: &[u8]| [&literal(b":method", m)[..], &[0x86, 0x84], &literal(b":authority", b"a")].concat();
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("no :path", [GET, &literal(b":authority", b"a")].concat()),
        ("an empty :path", with(b"")),
        ("no :method", [&[0x86, 0x84][..], &literal(b":authority", b"a")].concat()),
        ("a :path without a slash", with(b"x")),
        ("a blank in :path", with(b"/ HTTP/1.1\r\nx: y")),
        ("a line end in :path", with(b"/\r\nx: y")),
        ("a NUL in :path", with(b"/\0")),
        ("a fragment in :path", with(b"/a#b")),
        ("a line end in :authority", authority(b"a\r\nx: y")),
        ("a user in :authority", authority(b"u@a")),
        ("a blank in :authority", authority(b"a b")),
        ("a blank in :method", method(b"GET / HTTP/1.1\r\nx: y\r\n\r\nPUT")),
        ("a line end in a value", good(&[(b"x", b"a\r\nb: c")])),
        ("a NUL in a value", good(&[(b"x", b"a\0b")])),
        ("a line end in a name", good(&[(b"x\r\ny", b"a")])),
        ("a colon in a name", good(&[(b"x:y", b"a")])),
        ("a blank in a name", good(&[(b"x y", b"a")])),
        ("an empty name", good(&[(b"", b"a")])),
        ("a capital in a name", good(&[(b"X-A", b"a")])),
        ("transfer-encoding", good(&[(b"transfer-encoding", b"chunked")])),
        ("connection", good(&[(b"connection", b"close")])),
        ("upgrade", good(&[(b"upgrade", b"websocket")])),
        ("te of others", good(&[(b"te", b"gzip")])),
        ("two lengths", good(&[(b"content-length", b"0"), (b"content-length", b"5")])),
        ("a signed length", good(&[(b"content-length", b"+0")])),
        ("a length without a body", good(&[(b"content-length", b"5")])),
        ("an unknown pseudo-header", [GET, &[0x84][..], &literal(b":x", b"y")].concat()),
    ];
    let mut wrong = Vec::new();
    for (name, block) in &rows {
        let before = seen.len();
        let mut attacker = Frames::connect(address, &[]).await;
        attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, block)).await;
        attacker.send(&frame(PING, 0, 0, b"are ended")).await;
        let mut fate = "the connection ended".to_owned();
        while let Some(frame) = attacker.next().await {
            fate = match (frame.kind, frame.stream) {
                (RST_STREAM, 1) => format!("reset with {:?}", frame.payload),
                (HEADERS, 1) => format!("answered {:02x?}", &frame.payload[..4.min(frame.payload.len())]),
                (GOAWAY, _) => format!("goaway with {:?}", frame.payload),
                _ => continue,
            };
            break;
        }
        if seen.len() != before || fate.starts_with("answered [88") {
            wrong.push(format!("{name}: {fate}; upstream {:?}", seen.all().split_off(before)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    others_are_served(address).await;
    handle.stop().await;
}

#[tokio::test]
async fn a_missing_path_resets_its_stream_alone() {
    let _alone = ALONE.lock().await;
    let (handle, address, seen) = proxy().await;
    let mut attacker = Frames::connect(address, &[]).await;
    let without = [GET, &literal(b":authority", b"a")].concat();
    attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &without)).await;
    assert_eq!(attacker.fate(1).await, Err(PROTOCOL_ERROR));
    attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &block(GET, b"/good", &[]))).await;
    assert!(attacker.fate(3).await.is_ok());
    assert_eq!(seen.len(), 1);
    handle.stop().await;
}

/// Bytes for a tunnel that the upstream does not accept would be a request of their own to it.
#[tokio::test]
async fn early_data_of_a_tunnel_waits_until_the_upstream_accepts_it() {
    let _alone = ALONE.lock().await;
    // Hears what comes behind a head for a while before it says no.
    let (up, seen) = upstream(|mut stream, seen| async move {
        while let Some(mut request) = read_message(&mut stream).await {
            let mut more = [0; 1024];
            let wait = Duration::from_millis(300);
            if let Ok(Ok(n)) = tokio::time::timeout(wait, stream.read(&mut more)).await {
                request.push_str(&String::from_utf8_lossy(&more[..n]));
            }
            seen.push(request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    })
    .await;
    let mut hcm = hcm(route(json!({"cluster": "up"})));
    hcm["typedConfig"]["http2ProtocolOptions"] = json!({"allowConnect": true});
    let handle = start(vec![listener("l", json!([hcm]))], vec![cluster("up", &[up])], 1).await;
    let address = handle.address("l").await.unwrap();
    let mut attacker = Frames::connect(address, &[]).await;
    let connect = [
        &literal(b":method", b"CONNECT")[..],
        &literal(b":protocol", b"websocket"),
        &[0x86],
        &literal(b":path", b"/chat"),
        &literal(b":authority", b"a"),
    ]
    .concat();
    attacker.send(&frame(HEADERS, END_HEADERS, 1, &connect)).await;
    attacker.send(&frame(DATA, 0, 1, b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n")).await;
    let _ = attacker.fate(1).await;
    others_are_served(address).await;
    let saw = seen.all();
    assert!(saw[0].starts_with("GET /chat HTTP/1.1"), "{saw:?}");
    assert!(saw.iter().all(|request| !request.contains("/smuggled")), "{saw:?}");
    handle.stop().await;
}

/// Each stream was forwarded before it is reset: it costs its request, and nothing stays of it.
#[tokio::test]
async fn resets_that_come_slowly_cost_no_more_than_their_requests() {
    let _alone = ALONE.lock().await;
    let (up, seen) = upstream(|mut stream, seen| async move {
        // Never answers what is to be reset.
        while let Some(request) = read_message(&mut stream).await {
            let other = request.contains("/other");
            seen.push(request);
            if other {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[up]), 1).await;
    let before = resident();
    let mut attacker = Frames::connect(address, &[]).await;
    for n in 0..400u32 {
        let id = 2 * n + 1;
        attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, id, &block(GET, b"/slow", &[]))).await;
        while seen.len() <= n as usize {
            tokio::task::yield_now().await;
        }
        attacker.send(&frame(RST_STREAM, 0, id, &[0, 0, 0, 8])).await;
    }
    attacker.send(&frame(PING, 0, 0, b"all gone")).await;
    while attacker.next_of(PING).await.unwrap().payload != b"all gone" {}
    others_are_served(address).await;
    bounded(before);
    assert_eq!(stat(&handle, "cluster.up.upstream_rq_active").await, 0);
    handle.stop().await;
}

/// What an upstream floods with: its connection ends or waits, others are served, memory stays bounded.
#[tokio::test]
async fn floods_by_an_upstream_are_bounded() {
    let _alone = ALONE.lock().await;
    let begun = frame(HEADERS, END_HEADERS, 1, OK);
    let bomb = [&[0x88, 0x40, 6][..], b"x-bomb", &[100], &[b'c'; 100], &[0xbe].repeat(15_000)].concat();
    let floods: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        ("pings", vec![], frame(PING, 0, 0, b"floodped").repeat(1 << 16)),
        ("settings", vec![], frame(SETTINGS, 0, 0, &[]).repeat(1 << 16)),
        (
            "continuation",
            frame(HEADERS, 0, 1, OK),
            frame(CONTINUATION, 0, 1, &literal(b"x", &[b'a'; 100]).repeat(100)).repeat(1000),
        ),
        ("empty data", begun.clone(), frame(DATA, 0, 1, &[]).repeat(1 << 16)),
        (
            "interim answers",
            vec![],
            frame(HEADERS, END_HEADERS, 1, &literal(b":status", b"103")).repeat(1 << 16),
        ),
        ("hpack", vec![], frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)),
        ("windows", vec![], frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).repeat(1 << 16)),
        ("priorities", vec![], frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]).repeat(1 << 16)),
    ];
    for (name, first, flood) in floods {
        let flood = std::sync::Arc::new([first, flood].concat());
        let (up, _) = upstream(move |stream, _| {
            let flood = flood.clone();
            async move {
                let Some(mut server) = Frames::accept(stream).await else { return };
                server.send(&frame(SETTINGS, 0, 0, &[])).await;
                if server.next_of(HEADERS).await.is_some() {
                    server.flood(&flood).await;
                }
                // Reads nothing more, and does not end: that is for the proxy to do.
                tokio::time::sleep(PATIENCE).await;
            }
        })
        .await;
        let (other, _) = echo_upstream().await;
        let mut wicked = cluster("wicked", &[up]);
        wicked["typedExtensionProtocolOptions"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicitHttpConfig": {"http2ProtocolOptions": {}},
            },
        });
        let routes = json!([
            {"match": {"prefix": "/other"}, "route": {"cluster": "up"}},
            {"match": {"prefix": "/"}, "route": {"cluster": "wicked", "timeout": "2s"}},
        ]);
        let clusters = vec![cluster("up", &[other]), wicked];
        let handle = start(vec![listener("l", json!([hcm(routes)]))], clusters, 1).await;
        let address = handle.address("l").await.unwrap();
        let before = resident();
        let victim = tokio::spawn(async move {
            let _ = tokio::time::timeout(PATIENCE, get(address, "/")).await;
        });
        for _ in 0..20 {
            others_are_served(address).await;
        }
        victim.await.unwrap();
        others_are_served(address).await;
        let grown = resident().saturating_sub(before);
        assert!(grown < GROWTH, "{name}: grew by {} KiB", grown >> 10);
        handle.stop().await;
    }
}
