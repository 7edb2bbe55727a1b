//! RFC 9113 frame by frame: what a server must do with each thing that a client may get wrong, and what a client must do
//! with each thing that an upstream may. Every row is a MUST; its name begins with the section.

mod common;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use common::frames::{
    ACK, CANCEL, COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR, Frame, Frames, GET, GOAWAY, HEADERS, NO_ERROR, OK, PADDED, PING, POST, PRIORITY,
    PROTOCOL_ERROR, PUSH_PROMISE, REFUSED_STREAM, RST_STREAM, SETTINGS, STREAM_CLOSED, WINDOW_UPDATE, block,
    frame, literal, setting,
};
use common::{Seen, cluster, echo_upstream, exchange, get, http_proxy, read_message, status, upstream};
use proxy::Handle;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// What must come of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Must {
    /// The connection ends, with one of these errors where one is told.
    End(&'static [u32]),
    /// The stream is reset with one of these errors, and the connection serves others; or it ends with one of them, as
    /// section 5.4.2 lets it.
    Reset(&'static [u32]),
    /// The request is answered with 200.
    Answer,
    /// It is answered, with something else.
    Refuse,
}

const PROTOCOL: &[u32] = &[PROTOCOL_ERROR];
// What its codec cannot read `h2` calls PROTOCOL_ERROR throughout, which section 7 has for "when a more specific error code is
// not available": the connection ends all the same.
const SIZE: &[u32] = &[FRAME_SIZE_ERROR, PROTOCOL_ERROR];
const FLOW: &[u32] = &[FLOW_CONTROL_ERROR, PROTOCOL_ERROR];
const HPACK: &[u32] = &[COMPRESSION_ERROR, PROTOCOL_ERROR];
const CLOSED: &[u32] = &[STREAM_CLOSED, PROTOCOL_ERROR];

/// Rows that do not come out as RFC 9113 has it, and why that harms nobody.
const ARGUED: &[(&str, &str)] = &[
    (
        "8.1 trailers with a pseudo-header",
        "`h2` drops pseudo-headers of trailers before anybody sees them: they travel no further",
    ),
    ("8.3 a request's pseudo-header", "`h2` drops those of answers likewise"),
    (
        "6.9.1 a stream's window beyond 2^31-1",
        "`h2` resets the upstream's stream as it must, but tells nobody of it here: the request ends by its time-out",
    ),
];

fn is_argued(name: &str) -> bool {
    ARGUED.iter().any(|(argued, _)| *argued == name)
}

fn open(id: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, id, &block(GET, b"/", &[]))
}

fn post(id: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, id, &block(POST, b"/", &[]))
}

fn with(more: &[(&[u8], &[u8])]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(GET, b"/", more))
}

fn raw(block: &[&[u8]]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block.concat())
}

/// What a client says behind its preface and settings, and what a server must do.
fn of_clients() -> Vec<(&'static str, Vec<u8>, Must)> {
    use Must::{Answer, End, Refuse, Reset};
    let join = |parts: &[Vec<u8>]| parts.concat();
    let authority = literal(b":authority", b"a");
    let half = &block(GET, b"/", &[])[..4];
    let rest = &block(GET, b"/", &[])[4..];
    let begun = frame(HEADERS, END_STREAM, 1, half);
    let ended = frame(CONTINUATION, END_HEADERS, 1, rest);
    vec![
        (
            "4.1 unknown frames are ignored",
            join(&[frame(0x42, 0xff, 0, b"what"), frame(0x43, 0, 1, b""), open(1)]),
            Answer,
        ),
        (
            "4.1 undefined flags are ignored",
            frame(HEADERS, END_HEADERS | END_STREAM | 0x50, 1, &block(GET, b"/", &[])),
            Answer,
        ),
        (
            "4.1 the reserved bit is ignored",
            frame(HEADERS, END_HEADERS | END_STREAM, 1 | 1 << 31, &block(GET, b"/", &[])),
            Answer,
        ),
        (
            "4.2 a frame longer than allowed",
            join(&[post(1), frame(DATA, END_STREAM, 1, &[0; 16_385])]),
            Reset(SIZE),
        ),
        ("4.2 headers longer than allowed", frame(HEADERS, END_HEADERS, 1, &[0; 16_385]), End(SIZE)),
        ("4.3 a block that is no HPACK", raw(&[&[0xff; 8]]), End(HPACK)),
        ("4.3 an index that nobody set", raw(&[GET, &[0x84, 0xfe]]), End(HPACK)),
        (
            "4.3 another frame within a block",
            join(&[begun.clone(), frame(PING, 0, 0, b"notnow!!")]),
            End(PROTOCOL),
        ),
        (
            "4.3 an unknown frame within a block",
            join(&[begun.clone(), frame(0x42, 0, 0, b"")]),
            End(PROTOCOL),
        ),
        ("4.3 another stream within a block", join(&[begun.clone(), open(3)]), End(PROTOCOL)),
        ("4.3 a block in pieces is one", join(&[begun.clone(), ended.clone()]), Answer),
        ("5.1 DATA on an idle stream", frame(DATA, END_STREAM, 1, b"x"), End(PROTOCOL)),
        ("5.1 RST_STREAM on an idle stream", frame(RST_STREAM, 0, 1, &[0; 4]), End(PROTOCOL)),
        ("5.1 WINDOW_UPDATE on an idle stream", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), End(PROTOCOL)),
        (
            "5.1 DATA behind the end of a stream",
            join(&[open(1), frame(DATA, END_STREAM, 1, b"x")]),
            Reset(CLOSED),
        ),
        ("5.1 HEADERS behind the end of a stream", join(&[open(1), open(1)]), Reset(CLOSED)),
        (
            "5.1 DATA behind RST_STREAM",
            join(&[post(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), frame(DATA, 0, 1, b"x")]),
            Reset(CLOSED),
        ),
        (
            "5.1 HEADERS behind RST_STREAM",
            join(&[post(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), open(1)]),
            Reset(CLOSED),
        ),
        (
            "5.1 WINDOW_UPDATE behind the end is ignored",
            join(&[open(1), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])]),
            Answer,
        ),
        (
            "5.1 PRIORITY on any stream is ignored",
            join(&[frame(PRIORITY, 0, 9, &[0, 0, 0, 1, 7]), open(1)]),
            Answer,
        ),
        ("5.1.1 a client's stream of an even number", open(2), End(PROTOCOL)),
        ("5.1.1 a number below the last", join(&[open(5), open(3)]), End(&[PROTOCOL_ERROR, STREAM_CLOSED])),
        ("6.1 DATA on the connection", join(&[post(1), frame(DATA, 0, 0, b"x")]), End(PROTOCOL)),
        (
            "6.1 padding as long as its frame",
            join(&[post(1), frame(DATA, PADDED | END_STREAM, 1, &[3, 0, 0])]),
            End(PROTOCOL),
        ),
        (
            "6.1 padding is no content",
            join(&[post(1), frame(DATA, PADDED | END_STREAM, 1, &[2, b'x', 0, 0])]),
            Answer,
        ),
        (
            "6.2 HEADERS on the connection",
            frame(HEADERS, END_HEADERS | END_STREAM, 0, &block(GET, b"/", &[])),
            End(PROTOCOL),
        ),
        (
            "6.2 padding longer than the block",
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[200, 0x82]),
            End(PROTOCOL),
        ),
        (
            "6.2 a block with padding",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | PADDED,
                1,
                &[&[2][..], &block(GET, b"/", &[]), &[0, 0]].concat(),
            ),
            Answer,
        ),
        (
            "6.2 priority within HEADERS is ignored",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | 0x20,
                1,
                &[&[0, 0, 0, 3, 9][..], &block(GET, b"/", &[])].concat(),
            ),
            Answer,
        ),
        ("6.3 PRIORITY on the connection", frame(PRIORITY, 0, 0, &[0; 5]), End(PROTOCOL)),
        ("6.3 PRIORITY of another length", join(&[frame(PRIORITY, 0, 1, &[0; 4]), open(3)]), Reset(SIZE)),
        ("6.4 RST_STREAM on the connection", frame(RST_STREAM, 0, 0, &[0; 4]), End(PROTOCOL)),
        ("6.4 RST_STREAM of another length", join(&[post(1), frame(RST_STREAM, 0, 1, &[0; 3])]), End(SIZE)),
        ("6.5 an acknowledgement with content", frame(SETTINGS, ACK, 0, &setting(3, 1)), End(SIZE)),
        ("6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1, &setting(3, 1)), End(PROTOCOL)),
        ("6.5 SETTINGS of another length", frame(SETTINGS, 0, 0, &[0; 5]), End(SIZE)),
        ("6.5.2 ENABLE_PUSH of 2", frame(SETTINGS, 0, 0, &setting(2, 2)), End(PROTOCOL)),
        ("6.5.2 a window of 2^31", frame(SETTINGS, 0, 0, &setting(4, 1 << 31)), End(FLOW)),
        ("6.5.2 frames of less than 2^14", frame(SETTINGS, 0, 0, &setting(5, 16_383)), End(PROTOCOL)),
        ("6.5.2 frames of 2^24", frame(SETTINGS, 0, 0, &setting(5, 1 << 24)), End(PROTOCOL)),
        (
            "6.5.2 unknown settings are ignored",
            join(&[frame(SETTINGS, 0, 0, &setting(0x4242, 7)), open(1)]),
            Answer,
        ),
        (
            "6.6 a client that pushes",
            join(&[
                open(1),
                frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &block(GET, b"/", &[])].concat()),
            ]),
            End(PROTOCOL),
        ),
        ("6.7 PING of another length", frame(PING, 0, 0, &[0; 7]), End(SIZE)),
        ("6.7 PING on a stream", frame(PING, 0, 1, &[0; 8]), End(PROTOCOL)),
        ("6.7 an answer to no ping is ignored", join(&[frame(PING, ACK, 0, &[7; 8]), open(1)]), Answer),
        ("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), End(PROTOCOL)),
        ("6.9 WINDOW_UPDATE by 0 on the connection", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), End(PROTOCOL)),
        (
            "6.9 WINDOW_UPDATE by 0 on a stream",
            join(&[post(1), frame(WINDOW_UPDATE, 0, 1, &[0; 4])]),
            Reset(PROTOCOL),
        ),
        ("6.9 WINDOW_UPDATE of another length", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), End(SIZE)),
        (
            "6.9.1 a connection's window beyond 2^31-1",
            frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes()).repeat(2),
            End(FLOW),
        ),
        (
            "6.9.1 a stream's window beyond 2^31-1",
            join(&[post(1), frame(WINDOW_UPDATE, 0, 1, &0x7fff_ffffu32.to_be_bytes()).repeat(2)]),
            Reset(FLOW),
        ),
        (
            "6.9.2 a window that settings make too large",
            join(&[
                post(1),
                frame(WINDOW_UPDATE, 0, 1, &0x7fff_0000u32.to_be_bytes()),
                frame(SETTINGS, 0, 0, &setting(4, 0x7fff_ffff)),
            ]),
            End(FLOW),
        ),
        (
            "6.10 CONTINUATION on the connection",
            join(&[begun.clone(), frame(CONTINUATION, END_HEADERS, 0, rest)]),
            End(PROTOCOL),
        ),
        (
            "6.10 CONTINUATION behind a whole block",
            join(&[open(1), frame(CONTINUATION, END_HEADERS, 1, rest)]),
            End(PROTOCOL),
        ),
        ("6.10 CONTINUATION behind a whole one", join(&[begun, ended.clone(), ended]), End(PROTOCOL)),
        (
            "8.1 trailers that do not end the stream",
            join(&[post(1), frame(HEADERS, END_HEADERS, 1, &literal(b"x", b"y"))]),
            Reset(PROTOCOL),
        ),
        (
            "8.1 trailers with a pseudo-header",
            join(&[post(1), frame(HEADERS, END_HEADERS | END_STREAM, 1, &literal(b":path", b"/"))]),
            Reset(PROTOCOL),
        ),
        (
            "8.1.1 more content than its length",
            join(&[
                frame(HEADERS, END_HEADERS, 1, &block(POST, b"/", &[(b"content-length", b"1")])),
                frame(DATA, END_STREAM, 1, b"xy"),
            ]),
            Reset(PROTOCOL),
        ),
        (
            "8.1.1 less content than its length",
            join(&[
                frame(HEADERS, END_HEADERS, 1, &block(POST, b"/", &[(b"content-length", b"3")])),
                frame(DATA, END_STREAM, 1, b"xy"),
            ]),
            Reset(PROTOCOL),
        ),
        ("8.2.1 a capital in a name", with(&[(b"X-A", b"b")]), Reset(PROTOCOL)),
        ("8.2.1 a line end in a value", with(&[(b"x", b"a\nb")]), Reset(HPACK)),
        ("8.2.2 a header of the connection's", with(&[(b"connection", b"close")]), Reset(PROTOCOL)),
        ("8.2.2 te of others", with(&[(b"te", b"gzip")]), Reset(PROTOCOL)),
        ("8.2.2 te of trailers", with(&[(b"te", b"trailers")]), Answer),
        (
            "8.3 a pseudo-header behind a header",
            raw(&[GET, &literal(b"x", b"y"), &[0x84], &authority]),
            Reset(PROTOCOL),
        ),
        (
            "8.3 an unknown pseudo-header",
            raw(&[GET, &[0x84], &authority, &literal(b":x", b"y")]),
            Reset(PROTOCOL),
        ),
        ("8.3 a response's pseudo-header", raw(&[GET, &[0x84], &authority, OK]), Reset(PROTOCOL)),
        ("8.3 a pseudo-header twice", raw(&[GET, &[0x84, 0x84], &authority]), Reset(PROTOCOL)),
        ("8.3.1 no :method", raw(&[&[0x86, 0x84], &authority]), Reset(PROTOCOL)),
        ("8.3.1 no :scheme", raw(&[&[0x82, 0x84], &authority]), Reset(PROTOCOL)),
        ("8.3.1 no :path", raw(&[GET, &authority]), Reset(PROTOCOL)),
        ("8.3.1 an empty :path", raw(&[GET, &literal(b":path", b""), &authority]), Reset(PROTOCOL)),
        ("8.3.1 neither :authority nor host", raw(&[GET, &[0x84]]), Refuse),
        ("8.3.1 host in the place of :authority", raw(&[GET, &[0x84], &literal(b"host", b"a")]), Answer),
        (
            "8.5 CONNECT without a port",
            raw(&[&literal(b":method", b"CONNECT"), &literal(b":authority", b"a:b")]),
            Reset(PROTOCOL),
        ),
        (
            "8.5 CONNECT with :path",
            raw(&[&literal(b":method", b"CONNECT"), &[0x86, 0x84], &authority]),
            Reset(PROTOCOL),
        ),
    ]
}

async fn behind_a_proxy() -> (Handle, SocketAddr, Seen) {
    let (up, seen) = echo_upstream().await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[up]), 1).await;
    (handle, address, seen)
}

#[tokio::test]
async fn a_server_does_what_it_must_with_each_frame() {
    let (handle, address, _) = behind_a_proxy().await;
    let mut wrong = Vec::new();
    for (name, sent, must) in of_clients() {
        let mut client = Frames::connect(address, &[]).await;
        client.send(&sent).await;
        client.send(&frame(PING, 0, 0, b"are over")).await;
        let came = what_came(&mut client, must).await;
        if let Some(came) = came
            && !is_argued(name)
        {
            wrong.push(format!("{name}: {must:?}, but {came}"));
        }
        assert_eq!(status(&get(address, "/other").await), "200", "others behind {name}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    handle.stop().await;
}

/// What came that must not have; nothing where all is well.
async fn what_came(client: &mut Frames, must: Must) -> Option<String> {
    let (mut answer, mut reset, mut pinged) = (None::<bool>, None, false);
    let patience = std::time::Duration::from_secs(5);
    loop {
        let frame = match tokio::time::timeout(patience, client.next()).await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(_) => {
                return Some(format!("nothing more came; answer {answer:?}, reset {reset:?}, ping {pinged}"));
            }
        };
        match frame.kind {
            GOAWAY if frame.error() != NO_ERROR => {
                let (Must::End(codes) | Must::Reset(codes)) = must else { return Some(format!("{frame:?}")) };
                return (!codes.contains(&frame.error())).then(|| format!("{frame:?}"));
            }
            RST_STREAM => reset = Some(frame.error()),
            HEADERS => answer = Some(frame.payload.starts_with(OK)),
            PING if frame.flags & ACK != 0 => pinged = frame.payload == b"are over",
            _ => {}
        }
        match must {
            Must::End(_) => {}
            Must::Reset(codes) if reset.is_some() && pinged => {
                return reset.filter(|code| !codes.contains(code)).map(|code| format!("a reset with {code}"));
            }
            Must::Reset(_) => {}
            Must::Answer | Must::Refuse => {
                let good = must == Must::Answer;
                if answer.is_some() && pinged {
                    return (answer != Some(good)).then(|| format!("answered, 200: {answer:?}"));
                }
                // A request that is refused may be reset as well.
                if let Some(code) = reset
                    && pinged
                {
                    return good.then(|| format!("a reset with {code}"));
                }
            }
        }
    }
    let may_end = matches!(must, Must::End(_) | Must::Reset(_));
    (!may_end).then(|| format!("the connection ended; answer {answer:?}, reset {reset:?}"))
}

#[tokio::test]
async fn a_preface_is_awaited_and_settings_are_acknowledged() {
    let (handle, address, _) = behind_a_proxy().await;
    let mut client = Frames::connect(address, &setting(3, 5)).await;
    let first = client.next().await.unwrap();
    assert_eq!((first.kind, first.flags & ACK), (SETTINGS, 0), "3.4: settings are the first frame");
    let acknowledged = client.next_of(SETTINGS).await.unwrap();
    assert_eq!((acknowledged.flags, acknowledged.payload.len()), (ACK, 0), "6.5.3");
    client.send(&frame(PING, 0, 0, b"same one")).await;
    let pong = client.next_of(PING).await.unwrap();
    assert_eq!((pong.flags, &pong.payload[..]), (ACK, &b"same one"[..]), "6.7");
    handle.stop().await;
}

/// 6.9: not a byte more than the windows that the client opened, which may become negative meanwhile.
#[tokio::test]
async fn a_server_stays_within_the_windows() {
    let (handle, address, _) = behind_a_proxy().await;
    let path = format!("/{}", "x".repeat(99));
    let mut client = Frames::connect(address, &setting(4, 10)).await;
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(GET, path.as_bytes(), &[]))).await;
    let data =
        |n: usize| move |frame: &Frame| assert!(frame.payload.len() <= n, "{} of {n}", frame.payload.len());
    let first = client.next_of(DATA).await.unwrap();
    data(10)(&first);
    let mut got = first.payload.len();
    while got < 10 {
        got += client.next_of(DATA).await.unwrap().payload.len();
    }
    // Five less than was sent already: the next five bytes of window open nothing.
    client.send(&frame(SETTINGS, 0, 0, &setting(4, 5))).await;
    client.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 5])).await;
    client.send(&frame(PING, 0, 0, b"nothing!")).await;
    loop {
        let frame = client.next().await.unwrap();
        assert!(frame.kind != DATA || frame.payload.is_empty(), "{frame:?}");
        if frame.kind == PING {
            break;
        }
    }
    client.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 200])).await;
    while got < 100 {
        got += client.next_of(DATA).await.unwrap().payload.len();
    }
    assert_eq!(got, 100);
    handle.stop().await;
}

/// What the upstream says to the first request on each of its connections; then it answers all.
type Script = Arc<Vec<u8>>;

/// An HTTP/2 upstream that says what it likes, and tells what it was told.
async fn misbehaving(script: Vec<u8>, settings: Vec<u8>) -> (SocketAddr, mpsc::UnboundedReceiver<Frame>) {
    let (tell, told) = mpsc::unbounded_channel();
    let (script, settings, first): (Script, _, _) =
        (Arc::new(script), Arc::new(settings), Arc::new(std::sync::atomic::AtomicBool::new(true)));
    let (address, _) = upstream(move |stream: TcpStream, _| {
        let (script, settings, tell, first) = (script.clone(), settings.clone(), tell.clone(), first.clone());
        async move {
            let Some(mut server) = Frames::accept(stream).await else { return };
            let wicked = first.swap(false, std::sync::atomic::Ordering::SeqCst);
            server.send(if wicked { &settings } else { b"\0\0\0\x04\0\0\0\0\0" }).await;
            while let Some(heard) = server.next().await {
                match heard.kind {
                    SETTINGS if heard.flags & ACK == 0 => server.send(&frame(SETTINGS, ACK, 0, &[])).await,
                    HEADERS if wicked && heard.stream == 1 => server.send(&script).await,
                    HEADERS => {
                        server.send(&frame(HEADERS, END_HEADERS | END_STREAM, heard.stream, OK)).await;
                    }
                    _ => {}
                }
                let _ = tell.send(heard);
            }
        }
    })
    .await;
    (address, told)
}

fn http2_cluster(up: SocketAddr) -> Value {
    let mut cluster = cluster("up", &[up]);
    cluster["typedExtensionProtocolOptions"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicitHttpConfig": {"http2ProtocolOptions": {}},
        },
    });
    cluster
}

/// What an upstream says to a request on stream 1, and what a client must make of it: `Answer` is the upstream's 200,
/// `Refuse` an answer of the proxy's own or one that breaks off, and the connection may stay.
fn of_upstreams() -> Vec<(&'static str, Vec<u8>, Must)> {
    use Must::{Answer, End, Refuse, Reset};
    let join = |parts: &[Vec<u8>]| parts.concat();
    let head = |more: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 1, more);
    let begin = |more: &[u8]| frame(HEADERS, END_HEADERS, 1, more);
    let fine = head(OK);
    let ok_and = |name: &[u8], value: &[u8]| [OK, &literal(name, value)].concat();
    let length = ok_and(b"content-length", b"3");
    vec![
        ("4.1 unknown frames are ignored", join(&[frame(0x42, 0, 1, b"what"), fine.clone()]), Answer),
        (
            "4.2 a frame longer than allowed",
            join(&[begin(OK), frame(DATA, END_STREAM, 1, &[0; 16_385])]),
            Reset(SIZE),
        ),
        ("4.3 a block that is no HPACK", head(&[0xff; 8]), End(HPACK)),
        ("4.3 a table beyond what was allowed", head(&[0x3f, 0xe1, 0xff, 0x03, 0x88]), End(HPACK)),
        (
            "4.3 another frame within a block",
            join(&[frame(HEADERS, 0, 1, OK), frame(PING, 0, 0, &[0; 8])]),
            End(PROTOCOL),
        ),
        (
            "4.3 a block in pieces is one",
            join(&[frame(HEADERS, END_STREAM, 1, &[]), frame(CONTINUATION, END_HEADERS, 1, OK)]),
            Answer,
        ),
        ("5.1 DATA on an idle stream", frame(DATA, 0, 3, b"x"), End(PROTOCOL)),
        ("5.1 HEADERS on an idle stream", frame(HEADERS, END_HEADERS, 3, OK), End(PROTOCOL)),
        ("5.1 RST_STREAM on an idle stream", frame(RST_STREAM, 0, 3, &[0; 4]), End(PROTOCOL)),
        ("5.1 WINDOW_UPDATE on an idle stream", frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 1]), End(PROTOCOL)),
        ("5.1.1 a stream of the server's own", frame(HEADERS, END_HEADERS, 2, OK), End(PROTOCOL)),
        ("6.1 DATA on the connection", frame(DATA, 0, 0, b"x"), End(PROTOCOL)),
        (
            "6.1 padding as long as its frame",
            join(&[begin(OK), frame(DATA, PADDED | END_STREAM, 1, &[3, 0, 0])]),
            End(PROTOCOL),
        ),
        (
            "6.1 padding is no content",
            join(&[
                begin(&ok_and(b"content-length", b"1")),
                frame(DATA, PADDED | END_STREAM, 1, &[2, b'x', 0, 0]),
            ]),
            Answer,
        ),
        ("6.2 HEADERS on the connection", frame(HEADERS, END_HEADERS, 0, OK), End(PROTOCOL)),
        ("6.3 PRIORITY is ignored", join(&[frame(PRIORITY, 0, 1, &[0; 5]), fine.clone()]), Answer),
        ("6.4 RST_STREAM of another length", frame(RST_STREAM, 0, 1, &[0; 3]), End(SIZE)),
        ("6.4 RST_STREAM on the connection", frame(RST_STREAM, 0, 0, &[0; 4]), End(PROTOCOL)),
        ("6.5 an acknowledgement with content", frame(SETTINGS, ACK, 0, &setting(3, 1)), End(SIZE)),
        ("6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), End(PROTOCOL)),
        ("6.5 SETTINGS of another length", frame(SETTINGS, 0, 0, &[0; 5]), End(SIZE)),
        ("6.5.2 a window of 2^31", frame(SETTINGS, 0, 0, &setting(4, 1 << 31)), End(FLOW)),
        ("6.5.2 frames of 2^24", frame(SETTINGS, 0, 0, &setting(5, 1 << 24)), End(PROTOCOL)),
        (
            "6.5.2 unknown settings are ignored",
            join(&[frame(SETTINGS, 0, 0, &setting(0x4242, 7)), fine.clone()]),
            Answer,
        ),
        (
            "6.6 a push that was not allowed",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &block(GET, b"/", &[])].concat()),
            End(PROTOCOL),
        ),
        ("6.7 PING of another length", frame(PING, 0, 0, &[0; 7]), End(SIZE)),
        ("6.7 PING on a stream", frame(PING, 0, 1, &[0; 8]), End(PROTOCOL)),
        ("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), End(PROTOCOL)),
        (
            "6.8 GOAWAY lets what was begun end",
            join(&[frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]), fine.clone()]),
            Answer,
        ),
        ("6.9 WINDOW_UPDATE by 0 on the connection", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), End(PROTOCOL)),
        ("6.9 WINDOW_UPDATE by 0 on a stream", frame(WINDOW_UPDATE, 0, 1, &[0; 4]), Reset(PROTOCOL)),
        (
            "6.9.1 a connection's window beyond 2^31-1",
            frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes()).repeat(2),
            End(FLOW),
        ),
        (
            "6.9.1 a stream's window beyond 2^31-1",
            frame(WINDOW_UPDATE, 0, 1, &0x7fff_ffffu32.to_be_bytes()).repeat(2),
            Reset(FLOW),
        ),
        (
            "6.10 CONTINUATION behind a whole block",
            join(&[begin(OK), frame(CONTINUATION, END_HEADERS, 1, &[])]),
            End(PROTOCOL),
        ),
        ("8.1 content before the head", frame(DATA, END_STREAM, 1, b"x"), Reset(PROTOCOL)),
        ("8.1 an interim answer", join(&[begin(&literal(b":status", b"103")), fine.clone()]), Answer),
        ("8.1 an interim answer that is the end", head(&literal(b":status", b"103")), Reset(PROTOCOL)),
        (
            "8.1 trailers that do not end the stream",
            join(&[begin(OK), begin(&literal(b"x", b"y"))]),
            Reset(PROTOCOL),
        ),
        ("8.1 trailers with a pseudo-header", join(&[begin(OK), head(OK)]), Reset(PROTOCOL)),
        ("8.1 a request may be cut short", join(&[fine, frame(RST_STREAM, 0, 1, &[0; 4])]), Answer),
        (
            "8.1.1 more content than its length",
            join(&[begin(&length), frame(DATA, END_STREAM, 1, b"four")]),
            Reset(PROTOCOL),
        ),
        (
            "8.1.1 less content than its length",
            join(&[begin(&length), frame(DATA, END_STREAM, 1, b"xy")]),
            Reset(PROTOCOL),
        ),
        (
            "8.1.1 two lengths",
            begin(&[&length[..], &literal(b"content-length", b"4")].concat()),
            Reset(PROTOCOL),
        ),
        ("8.2.1 a capital in a name", head(&ok_and(b"X-A", b"b")), Reset(PROTOCOL)),
        ("8.2.1 a line end in a value", head(&ok_and(b"x", b"a\r\nb: c")), Reset(HPACK)),
        (
            "8.2.2 a header of the connection's",
            head(&ok_and(b"transfer-encoding", b"chunked")),
            Reset(PROTOCOL),
        ),
        (
            "8.3 a pseudo-header behind a header",
            head(&[&literal(b"x", b"y")[..], OK].concat()),
            Reset(PROTOCOL),
        ),
        ("8.3 a request's pseudo-header", head(&[OK, &[0x84][..]].concat()), Reset(PROTOCOL)),
        ("8.3 an unknown pseudo-header", head(&[OK, &literal(b":x", b"y")[..]].concat()), Reset(PROTOCOL)),
        ("8.3.2 no :status", head(&literal(b"x", b"y")), Reset(PROTOCOL)),
        ("8.3.2 two of them", head(&[0x88, 0x88]), Reset(PROTOCOL)),
        ("8.3.2 one that is no number", head(&literal(b":status", b"2xx")), Reset(HPACK)),
        ("8.6 switching protocols", begin(&literal(b":status", b"101")), Reset(PROTOCOL)),
        (
            "8.7 a stream that was refused is tried again",
            frame(RST_STREAM, 0, 1, &REFUSED_STREAM.to_be_bytes()),
            Answer,
        ),
        ("5.4.2 a stream that was reset", frame(RST_STREAM, 0, 1, &[0, 0, 0, 2]), Refuse),
    ]
}

#[tokio::test]
async fn a_client_does_what_it_must_with_each_frame() {
    let mut wrong = Vec::new();
    for (name, script, must) in of_upstreams() {
        let (up, mut told) = misbehaving(script, frame(SETTINGS, 0, 0, &[])).await;
        let (handle, address) = http_proxy(json!({"cluster": "up"}), http2_cluster(up), 1).await;
        let patience = std::time::Duration::from_secs(4);
        let asked = tokio::time::timeout(patience, last_answer(address, "/first")).await;
        let Ok(answer) = asked else {
            if is_argued(name) {
                handle.stop().await;
                continue;
            }
            wrong.push(format!("{name}: {must:?}, but no answer"));
            continue;
        };
        if (status(&answer) == "200") != (must == Must::Answer) && !is_broken(&answer) && !is_argued(name) {
            wrong.push(format!("{name}: {must:?}, but answered {answer:?}"));
        }
        let next = get(address, "/next").await;
        if status(&next) != "200" {
            wrong.push(format!("{name}: the next request is answered {next:?}"));
        }
        let (codes, what): (&[u32], _) = match must {
            Must::End(codes) => (codes, &[GOAWAY][..]),
            Must::Reset(codes) => (codes, &[GOAWAY, RST_STREAM][..]),
            Must::Answer | Must::Refuse => (&[NO_ERROR, CANCEL], &[GOAWAY, RST_STREAM][..]),
        };
        handle.stop().await;
        let mut errors = BTreeSet::new();
        while let Ok(frame) = told.try_recv() {
            if what.contains(&frame.kind) {
                errors.insert(frame.error());
            }
        }
        let said_well = errors.iter().all(|code| codes.contains(code) || [NO_ERROR, CANCEL].contains(code));
        if !said_well {
            wrong.push(format!("{name}: {must:?}, but the upstream was told {errors:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The answer behind those that are interim.
async fn last_answer(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
    loop {
        let answer = read_message(&mut stream).await.unwrap_or_default();
        if !status(&answer).starts_with('1') {
            return answer;
        }
    }
}

/// Whether an answer that was begun came to no good end.
fn is_broken(answer: &str) -> bool {
    answer.is_empty() || (answer.contains("chunked") && !answer.ends_with("0\r\n\r\n"))
}

#[tokio::test]
async fn a_client_ends_a_connection_whose_settings_break_the_protocol() {
    let rows: [(&str, Vec<u8>, &[u32]); 4] = [
        ("3.4 no settings", frame(PING, 0, 0, b"too soon"), PROTOCOL),
        ("6.5.2 ENABLE_PUSH of 1", frame(SETTINGS, 0, 0, &setting(2, 1)), PROTOCOL),
        ("6.5.2 frames of less than 2^14", frame(SETTINGS, 0, 0, &setting(5, 1)), PROTOCOL),
        ("6.5.2 a window of 2^31", frame(SETTINGS, 0, 0, &setting(4, 1 << 31)), FLOW),
    ];
    let mut wrong = Vec::new();
    for (name, settings, codes) in rows {
        let (up, mut told) = misbehaving(frame(HEADERS, END_HEADERS | END_STREAM, 1, OK), settings).await;
        let (handle, address) = http_proxy(json!({"cluster": "up"}), http2_cluster(up), 1).await;
        let first = get(address, "/first").await;
        let next = get(address, "/next").await;
        handle.stop().await;
        let mut errors = Vec::new();
        while let Ok(frame) = told.try_recv() {
            if frame.kind == GOAWAY {
                errors.push(frame.error());
            }
        }
        if errors.iter().any(|code| !codes.contains(code) && *code != NO_ERROR) || status(&next) != "200" {
            wrong.push(format!("{name}: told {errors:?}, answered {first:?}, then {next:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// 5.1.2, 6.5.2, 6.9: no more streams, no longer frames, no more bytes than the upstream allowed.
#[tokio::test]
async fn a_client_stays_within_what_its_upstream_allows() {
    let settings = [setting(3, 1), setting(4, 10)].concat();
    let (tell, mut told) = mpsc::unbounded_channel();
    let settings = Arc::new(frame(SETTINGS, 0, 0, &settings));
    let (up, _) = upstream(move |stream: TcpStream, _| {
        let (tell, settings) = (tell.clone(), settings.clone());
        async move {
            let Some(mut server) = Frames::accept(stream).await else { return };
            server.send(&settings).await;
            // Until our settings are acknowledged, those that there are without any hold.
            let (mut open, mut window, mut acknowledged) = (BTreeSet::new(), 10usize, false);
            while let Some(heard) = server.next().await {
                match heard.kind {
                    SETTINGS if heard.flags & ACK == 0 => server.send(&frame(SETTINGS, ACK, 0, &[])).await,
                    SETTINGS => acknowledged = true,
                    HEADERS => {
                        open.insert(heard.stream);
                        window = 10;
                    }
                    DATA => {
                        let fits = heard.payload.len() <= window && heard.payload.len() <= 16_384;
                        if acknowledged {
                            let _ = tell.send((open.len(), fits));
                        }
                        window = window.saturating_sub(heard.payload.len());
                        if window == 0 {
                            window = 20_000;
                            server
                                .send(&frame(WINDOW_UPDATE, 0, heard.stream, &20_000u32.to_be_bytes()))
                                .await;
                            server.send(&frame(WINDOW_UPDATE, 0, 0, &20_000u32.to_be_bytes())).await;
                        }
                    }
                    _ => {}
                }
                if heard.flags & END_STREAM != 0 && matches!(heard.kind, HEADERS | DATA) {
                    open.remove(&heard.stream);
                    server.send(&frame(HEADERS, END_HEADERS | END_STREAM, heard.stream, OK)).await;
                }
            }
        }
    })
    .await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), http2_cluster(up), 1).await;
    assert_eq!(status(&get(address, "/warm").await), "200");
    let body = "x".repeat(50_000);
    let post = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    assert_eq!(status(&exchange(address, &post).await), "200");
    let both = futures::future::join(exchange(address, &post), exchange(address, &post)).await;
    assert_eq!((status(&both.0), status(&both.1)), ("200", "200"));
    handle.stop().await;
    let mut frames = 0;
    while let Ok((streams, fits)) = told.try_recv() {
        assert!(fits, "more than the window or a frame holds");
        assert!(streams <= 1, "{streams} streams of one");
        frames += 1;
    }
    assert!(frames > 6, "{frames}");
}

/// 8.1: an empty frame may be what ends a request or an answer, as all streaming clients of gRPC do it.
#[tokio::test]
async fn an_end_without_content_is_passed_on_both_ways() {
    let (up, _) = upstream(|stream: TcpStream, _| async move {
        let Some(mut server) = Frames::accept(stream).await else { return };
        server.send(&frame(SETTINGS, 0, 0, &[])).await;
        while let Some(heard) = server.next().await {
            match heard.kind {
                SETTINGS if heard.flags & ACK == 0 => server.send(&frame(SETTINGS, ACK, 0, &[])).await,
                DATA if heard.flags & END_STREAM != 0 => {
                    server.send(&frame(HEADERS, END_HEADERS, heard.stream, OK)).await;
                    server.send(&frame(DATA, 0, heard.stream, b"answer")).await;
                    server.send(&frame(DATA, 0, heard.stream, b"")).await;
                    server.send(&frame(DATA, END_STREAM, heard.stream, b"")).await;
                }
                _ => {}
            }
        }
    })
    .await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), http2_cluster(up), 1).await;
    let mut client = Frames::connect(address, &[]).await;
    client.send(&post(1)).await;
    for (flags, data) in [(0, &b"request"[..]), (0, b""), (END_STREAM, b"")] {
        client.send(&frame(DATA, flags, 1, data)).await;
        // Apart, so that each is a piece of its own.
        client.send(&frame(PING, 0, 0, b"one more")).await;
        client.next_of(PING).await.unwrap();
    }
    let (mut got, mut ended) = (Vec::new(), false);
    while !ended {
        let heard = client.next().await.unwrap();
        assert_ne!(heard.kind, RST_STREAM, "{heard:?}");
        if heard.kind == DATA {
            got.extend_from_slice(&heard.payload);
        }
        ended = heard.stream == 1 && heard.flags & END_STREAM != 0;
    }
    assert_eq!(got, b"answer");
    handle.stop().await;
}
