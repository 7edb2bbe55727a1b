//! Deciding: the configurations that the comparison with Envoy plays on, varied, and its requests, varied.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use arbitrary::Unstructured;
use base::SeededRandom;
use bytes::Bytes;
use decide::{
    Answer, Answered, Answering, Ask, CallFault, Connection, ConnectionOutcome, Context, Deciding, Direction,
    Explanation, Hcm, Headers, Listener, LocalReply, LogEntry, NodeFacts, Outcome, Plan, Processed,
    ReceivedBody, Request, Response, Step, TlsInfo, Version, decide_connection,
};
use proto::{Delta, Resource, ResourceType};
use serde_json::Value;

/// What the bytes decide; when they are used up, everything is its first choice.
pub struct Odds<'a>(Unstructured<'a>);

impl<'a> Odds<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    fn one_in(&mut self, n: u8) -> bool {
        !self.0.is_empty() && self.0.ratio(1, n).unwrap_or_default()
    }

    fn pick<'b, T>(&mut self, from: &'b [T]) -> &'b T {
        &from[self.0.choose_index(from.len()).unwrap_or_default()]
    }

    fn number(&mut self) -> u64 {
        self.0.arbitrary().unwrap_or_default()
    }

    fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { self.0.choose_index(n).unwrap_or_default() }
    }
}

/// One listener with what is sent to it.
struct Place {
    listener: Value,
    messages: Vec<Vec<u8>>,
}

pub struct Ground {
    pub plan: Plan,
    places: Vec<Place>,
}

/// All configurations in one plan.
pub fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        let (bootstrap, sent) = differential::configurations().unwrap_or_else(|e| panic!("{e:#}"));
        let fixed =
            |field: &str| bootstrap["static_resources"][field].as_array().cloned().unwrap_or_default();
        let mut plan = Plan::new();
        for cluster in fixed("clusters") {
            plan = applied(&plan, ResourceType::Cluster, &cluster).unwrap_or(plan);
        }
        let mut places = Vec::new();
        for (listener, (_, messages)) in fixed("listeners").into_iter().zip(sent) {
            plan = applied(&plan, ResourceType::Listener, &listener).unwrap_or(plan);
            // Of thousands that vary one thing, some.
            let messages =
                messages.into_iter().map(String::into_bytes).filter(|m| m.len() < 4096).take(60).collect();
            places.push(Place { listener, messages });
        }
        Ground { plan, places }
    })
}

/// The plan with a resource; nothing where it is refused.
fn applied(plan: &Plan, resource_type: ResourceType, value: &Value) -> Option<Plan> {
    let body = proto::json::from_value(resource_type.url(), value).ok()?;
    let name = value["name"].as_str().unwrap_or("fuzz");
    let resource = Resource { name: name.into(), version: 1, body: body.into() };
    let delta = Delta { resource_type, changed: vec![resource], removed: Vec::new() };
    let (plan, rejections) = plan.apply(&delta);
    rejections.is_empty().then_some(plan)
}

/// A listener, perhaps varied, and some requests to it, perhaps varied.
pub fn decide(data: &[u8]) {
    let mut odds = Odds::new(data);
    let ground = ground();
    let place = &ground.places[odds.below(ground.places.len())];
    let name = place.listener["name"].as_str().unwrap_or_default();
    let mut plan = Cow::Borrowed(&ground.plan);
    if odds.one_in(4) {
        let mut varied = place.listener.clone();
        for _ in 0..=odds.below(3) {
            let other = &ground.places[odds.below(ground.places.len())].listener;
            vary(&mut varied, other, &mut odds);
        }
        varied["name"] = name.into();
        match applied(&plan, ResourceType::Listener, &varied) {
            Some(taken) => plan = Cow::Owned(taken),
            None => return,
        }
    }
    let Some(listener) = plan.listener(name) else { return };
    let messages: Vec<Vec<u8>> = (0..=odds.below(3)).map(|_| message(ground, place, &mut odds)).collect();
    ask(&plan, listener, &mut odds, &messages);
}

const WORDS: &[&str] = &[
    "",
    "*",
    "/",
    "a",
    "%REQ(x?y):3%",
    "%",
    "%2F",
    "..",
    "-1",
    "4294967296",
    "1s",
    "é",
    "0.5s",
    "x-forwarded-for",
    ":path",
    "%DOWNSTREAM_PEER_CERT%",
    "^(a+)+$",
    "\\1",
    "{a=*}",
    "spiffe://a/b",
    "10.0.0.0",
    "STRICT",
];

/// Changes one thing somewhere: a leaf, a field left out, one of another listener in its place.
fn vary(value: &mut Value, other: &Value, odds: &mut Odds<'_>) {
    let deeper = !odds.one_in(6);
    match value {
        Value::Object(fields) if deeper && !fields.is_empty() => {
            let at = odds.below(fields.len());
            let Some(name) = fields.keys().nth(at).cloned() else { return };
            if name == "@type" {
                return;
            }
            if odds.one_in(20) {
                fields.shift_remove(&name);
            } else if let Some(inner) = fields.get_mut(&name) {
                let theirs = other.get(&name).unwrap_or(other);
                vary(inner, theirs, odds);
            }
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = odds.below(items.len());
            match odds.below(8) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                2 => items.reverse(),
                _ => vary(&mut items[at], other.get(0).unwrap_or(other), odds),
            }
        }
        Value::String(text) => *text = (*odds.pick(WORDS)).to_owned(),
        Value::Number(_) => {
            let n = odds.number();
            *value = [n, n % 1000, n % 3][odds.below(3)].into();
        }
        Value::Bool(flag) => *flag = !*flag,
        _ => *value = other.clone(),
    }
}

const LINES: &[&str] = &[
    "x-forwarded-for: 1.2.3.4, 5.6.7.8",
    "x-forwarded-for: ,,é, [::1]:80",
    "x-forwarded-proto: https",
    "x-forwarded-client-cert: By=a;URI=\"b\\\"\",Hash=c",
    "x-envoy-upstream-rq-timeout-ms: 99999999999999999999",
    "x-envoy-retry-on: 5xx, retriable-status-codes",
    "x-envoy-max-retries: 4294967296",
    "grpc-timeout: 99999999H",
    "grpc-timeout: -1n",
    "content-type: application/grpc",
    "te: trailers",
    "authorization: Bearer a.b.c",
    "authorization: Basic YTpi",
    "cookie: a=b; session=\"x\"; =",
    "x-request-id: 00000000-0000-9000-8000-000000000000",
    "x-b3-traceid: 463ac35c9f6413ad48485a3953bb6124",
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "b3: 1",
    "origin: https://good.example",
    "access-control-request-method: GET",
    "accept-encoding: gzip;q=0, br, *;q=1.1",
    "x-envoy-peer-metadata: CgA=",
    "x-envoy-peer-metadata-id: x",
    "x-envoy-decorator-operation: o",
    "x-envoy-original-dst-host: 1.2.3.4:99999",
    "connection: x-a, upgrade",
    "upgrade: websocket",
    "expect: 100-continue",
    "x-a:",
];

const PATHS: &[&str] = &[
    "/",
    "//",
    "/%2e%2e/a",
    "/a/../b",
    "/a;b=c",
    "/?",
    "/?a=b&a=%00",
    "/a#b",
    "*",
    "/\u{80}",
    "/a?b?c#d",
    "/%",
];

/// A request of this place, or of another, with something added, replaced or broken.
fn message(ground: &Ground, place: &Place, odds: &mut Odds<'_>) -> Vec<u8> {
    let from = if odds.one_in(8) { &ground.places[odds.below(ground.places.len())] } else { place };
    let default = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
    let mut message = if from.messages.is_empty() { default } else { odds.pick(&from.messages).clone() };
    while odds.one_in(2) {
        let end = message.windows(2).position(|w| w == b"\r\n").unwrap_or_default();
        if odds.one_in(3) {
            let line = String::from_utf8_lossy(&message[..end]).into_owned();
            let mut parts: Vec<&str> = line.split(' ').collect();
            if let Some(path) = parts.get_mut(1) {
                *path = *odds.pick(PATHS);
            }
            message.splice(..end, parts.join(" ").into_bytes());
        } else if odds.one_in(6) && !message.is_empty() {
            let at = odds.below(message.len());
            message[at] = odds.number() as u8;
        } else {
            let line = format!("\r\n{}", odds.pick(LINES));
            message.splice(end..end, line.into_bytes());
        }
    }
    message
}

/// Decides on a connection and on requests on it, and looks at everything that comes of them.
pub fn ask(plan: &Plan, listener: &Listener, odds: &mut Odds<'_>, messages: &[Vec<u8>]) {
    let connection = connection(odds);
    let Some(chain) = listener.choose(&connection, &mut ()) else { return };
    let mut rng = SeededRandom::new(odds.number());
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let decided = decide_connection(plan, chain, &connection, start, &mut rng, &mut ());
    let ConnectionOutcome::Http(hcm) = decided.outcome else { return };
    let node = NodeFacts { cluster: "c".into(), id: "sidecar~x".into(), metadata: "CgA=".into() };
    let direction = *odds.pick(&[Direction::Inbound, Direction::Outbound]);
    let cx = Context {
        plan,
        hcm: &hcm,
        connection: &connection,
        direction,
        node: &node,
        start,
        now: Instant::now(),
    };
    for message in messages {
        let Some(mut request) = proxy::fuzz::request_of(message) else { continue };
        if odds.one_in(3) {
            request.version = Version::Http2;
        }
        one(&cx, &hcm, request, odds, &mut rng);
    }
}

fn one(cx: &Context<'_>, hcm: &Hcm, mut request: Request, odds: &mut Odds<'_>, rng: &mut SeededRandom) {
    let mut machine = Deciding::new(cx.connection);
    let mut told = Explanation::default();
    let mut asked = 0;
    let decision = loop {
        asked += 1;
        assert!(asked < 200, "asks without end");
        match machine.step(cx, &mut request, rng, &mut told) {
            Step::Done(decision) => break decision,
            Step::Ask(Ask::Delay(_)) => {}
            Step::Ask(Ask::Call(_)) => machine.answer(Answer::Called(called(odds))),
            Step::Ask(Ask::Process(_)) => {
                let reply = || Box::new(LocalReply::new(500, "", "ext_proc_error"));
                let over = if odds.one_in(2) { Processed::Over } else { Processed::Failed(reply()) };
                machine.answer(Answer::Processed(over));
            }
            Step::Ask(Ask::VirtualHost { .. }) => machine.answer(Answer::VirtualHost(odds.one_in(2))),
            Step::Ask(Ask::Replace { .. }) => {}
            Step::Ask(Ask::Body { more_than, .. }) => {
                let length = odds.below(64).min(more_than as usize + 1);
                let data = Bytes::from(vec![b'x'; length]);
                let body = (!odds.one_in(4)).then_some(ReceivedBody {
                    data,
                    complete: odds.one_in(2),
                    has_trailers: odds.one_in(2),
                });
                machine.answer(Answer::Body(body));
            }
        }
    };
    if let Outcome::Forward(_) = &decision.outcome {
        for text in [&request.path, &request.authority] {
            assert!(!text.bytes().any(|b| b.is_ascii_control()), "{text:?} goes upstream");
        }
        clean(&request.headers);
        proxy::fuzz::goes_on(&request);
    }
    let entry = LogEntry {
        request: Some(&request),
        downstream_remote: decision.remote,
        ..LogEntry::new(cx.connection, cx.start)
    };
    let mut response = match &decision.outcome {
        Outcome::Reply(reply) => hcm.finish_reply(reply, &entry, request.is_grpc(), rng).response,
        _ => answer(odds),
    };
    decision.take_upstream_peer(hcm, &mut response);
    decision.respond(hcm, cx.node, &entry, Some(Duration::from_millis(3)), 1, &mut response);
    let mut at = Answering::default();
    while decision.next_filter(&mut at, hcm, &mut response, true).is_some() {}
    decision.finish(hcm, &mut response);
    clean(&response.headers);
    let entry =
        LogEntry { response_headers: Some(&response.headers), response_code: response.status, ..entry };
    for log in &hcm.access_log {
        if log.wants(&entry, rng) {
            let mut line = String::new();
            log.log(&entry, &mut line);
        }
    }
}

/// Nothing in a header ends it.
fn clean(headers: &Headers) {
    for (name, value) in headers.iter() {
        let bad = |b: &u8| matches!(b, b'\r' | b'\n' | 0);
        assert!(!name.as_bytes().is_empty() && !name.as_bytes().iter().any(bad), "{name:?}");
        assert!(!value.iter().any(bad), "{name:?}: {value:?}");
    }
}

fn called(odds: &mut Odds<'_>) -> Result<Answered, CallFault> {
    if odds.one_in(4) {
        return Err(odds
            .pick(&[CallFault::Timeout, CallFault::NoCluster, CallFault::Failed("x".into())])
            .clone());
    }
    let body: Vec<u8> = match odds.below(3) {
        0 => b"\0\0\0\0\0".to_vec(),
        1 => br#"{"keys":[]}"#.to_vec(),
        _ => {
            let n = odds.below(64);
            let message = odds.0.bytes(n.min(odds.0.len())).unwrap_or_default();
            [&[0, 0, 0, 0, message.len() as u8], message].concat()
        }
    };
    let trailers = Some([("grpc-status", "0")].into_iter().collect());
    Ok(Answered { response: answer(odds), body: body.into(), trailers, took: Duration::from_millis(1) })
}

fn answer(odds: &mut Odds<'_>) -> Response {
    let mut response = Response::new(*odds.pick(&[200, 200, 401, 403, 503, 302, 101, 204, 999]));
    for line in [
        "content-length: 5",
        "content-type: text/html",
        "location: http://a/b#c",
        "set-cookie: a=b",
        "etag: \"x\"",
        "x-envoy-peer-metadata: CgA=",
        "grpc-status: 99",
        "vary: accept",
        "x-envoy-immediate-health-check-fail: 1",
    ] {
        if odds.one_in(3)
            && let Some((name, value)) = line.split_once(": ")
        {
            response.headers.append(name, value);
        }
    }
    response
}

fn connection(odds: &mut Odds<'_>) -> Connection {
    let address =
        |text: &str, port: u16| SocketAddr::new(text.parse().unwrap_or([127, 0, 0, 1].into()), port);
    let from = odds.pick(&["127.0.0.1", "10.1.2.3", "9.9.9.9", "::1", "::ffff:10.0.0.1"]);
    let to = odds.pick(&["127.0.0.1", "10.0.0.1", "::1"]);
    let mut connection = Connection::new(address(from, 40_000), address(to, 21_000));
    connection.server_name = Arc::from(*odds.pick(&["", "a.example", "*.example", "b"]));
    connection.application_protocols =
        odds.pick(&[vec![], vec!["h2"], vec!["http/1.1", "istio"]]).iter().map(|p| Arc::from(*p)).collect();
    if odds.one_in(3) {
        let uri = *odds.pick(&["spiffe://cluster.local/ns/a/sa/b", "spiffe://a", "x,y;z=\"q\""]);
        connection.tls = Some(Arc::new(TlsInfo {
            peer_verified: odds.one_in(2),
            peer_presented: true,
            peer_uris: std::iter::once(Arc::from(uri)).collect(),
            peer_subject: Arc::from("CN=a,O=\"b\""),
            version: Arc::from("TLSv1.3"),
            ..TlsInfo::default()
        }));
    }
    connection
}
