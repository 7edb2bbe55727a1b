//! A real istiod's configuration of Bookinfo: it compiles, and requests meet the fate that it says.
//!
//! The record is made from `tests/peers/istiod` and kept among the peers: see [`testkit::istiod`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base::SeededRandom;
use decide::{
    Connection, ConnectionOutcome, Context, Deciding, Direction, Explanation, Hcm, LogEntry, Method,
    NodeFacts, Outcome, Plan, Request, ResponseFlags, Step, TlsInfo, TransportProtocol, decide_connection,
};
use proto::{Delta, Rejection, Resource, ResourceType};
use serde_json::Value;

fn resource(resource_type: ResourceType, name: &str, value: &Value) -> Resource {
    let mut value = value.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("@type");
    }
    let body =
        proto::json::from_value(resource_type.url(), &value).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    Resource { name: name.into(), version: 1, body: body.into() }
}

/// The resources of one proxy's dump, in the order of safe updates.
fn deltas(name: &str) -> Option<Vec<Delta>> {
    let folder = testkit::istiod::need_record()?;
    let read = |file: String| -> Value {
        serde_json::from_str(&std::fs::read_to_string(folder.join(file)).unwrap()).unwrap()
    };
    let mut all: BTreeMap<ResourceType, Vec<Resource>> = BTreeMap::new();
    let dump = read(format!("{name}.json"));
    let mut add = |t: ResourceType, field: &str, value: &Value| {
        let name = value[field].as_str().unwrap().to_owned();
        all.entry(t).or_default().push(resource(t, &name, value));
    };
    for config in dump["configs"].as_array().unwrap() {
        for entry in config["dynamicActiveClusters"].as_array().into_iter().flatten() {
            add(ResourceType::Cluster, "name", &entry["cluster"]);
        }
        for entry in config["dynamicListeners"].as_array().into_iter().flatten() {
            add(ResourceType::Listener, "name", &entry["activeState"]["listener"]);
        }
        for entry in config["dynamicRouteConfigs"].as_array().into_iter().flatten() {
            add(ResourceType::Route, "name", &entry["routeConfig"]);
        }
    }
    let endpoints = read(format!("{name}.endpoints.json"));
    for entry in endpoints["configs"].as_array().into_iter().flatten() {
        add(ResourceType::Endpoint, "clusterName", entry);
    }
    let delta = |(resource_type, changed)| Delta { resource_type, changed, removed: Vec::new() };
    Some(all.into_iter().map(delta).collect())
}

fn plan(name: &str) -> Option<(Plan, Vec<Rejection>)> {
    let mut plan = Plan::new();
    let mut rejections = Vec::new();
    for delta in deltas(name)? {
        let (next, rejected) = plan.apply(&delta);
        plan = next;
        rejections.extend(rejected);
    }
    Some((plan, rejections))
}

#[test]
fn everything_compiles() {
    for (name, _) in testkit::istiod::RECORDED {
        let Some((plan, rejections)) = plan(name) else { return };
        assert!(rejections.is_empty(), "{name}: {rejections:?}");
        assert!(plan.clusters().count() > 5, "{name}: {}", plan.clusters().count());
        assert!(plan.listeners().count() > 0, "{name}");
        for wanted in plan.wanted_route_tables() {
            assert!(plan.route_table_named(&wanted).is_some(), "{name}: {wanted}");
        }
        for cluster in plan.clusters().filter(|c| c.name.starts_with("outbound|9080")) {
            assert!(plan.assignment(cluster).is_some_and(|a| !a.is_empty()), "{name}: {}", cluster.name);
        }
    }
}

struct Answer {
    explanation: Explanation,
    request: Request,
    decision: Box<decide::Decision>,
    waited: Duration,
}

fn ask(
    plan: &Plan,
    hcm: &Hcm,
    connection: &Connection,
    direction: Direction,
    mut request: Request,
    seed: u64,
) -> Answer {
    let node = NodeFacts { id: "sidecar~me".into(), metadata: "bWU=".into(), ..NodeFacts::default() };
    let cx = Context {
        plan,
        hcm,
        connection,
        direction,
        node: &node,
        start: SystemTime::UNIX_EPOCH,
        now: std::time::Instant::now(),
    };
    let mut deciding = Deciding::new(connection);
    let mut rng = SeededRandom::new(seed);
    let mut explanation = Explanation::default();
    let mut waited = Duration::ZERO;
    loop {
        match deciding.step(&cx, &mut request, &mut rng, &mut explanation) {
            Step::Ask(decide::Ask::Delay(delay)) => waited += delay,
            Step::Ask(other) => panic!("{other:?}"),
            Step::Done(decision) => return Answer { explanation, request, decision, waited },
        }
    }
}

/// A request of the application to a service, as captured.
fn outbound(plan: &Plan, address: &str, request: Request, seed: u64) -> Answer {
    let destination = address.parse().unwrap();
    let mut connection = Connection::new("10.244.1.5:40000".parse().unwrap(), destination);
    connection.local_restored = true;
    connection.application_protocols.push("http/1.1".into());
    let first = plan.listener("virtualOutbound").unwrap();
    let listener = plan.hand_over(first, destination).unwrap_or(first);
    let chain = listener.choose(&connection, &mut ()).unwrap();
    let mut rng = SeededRandom::new(seed);
    let decided = decide_connection(plan, chain, &connection, SystemTime::UNIX_EPOCH, &mut rng, &mut ());
    let ConnectionOutcome::Http(hcm) = decided.outcome else { panic!("{address}: {:?}", decided.outcome) };
    ask(plan, &hcm, &connection, Direction::Outbound, request, seed)
}

fn cluster(answer: &Answer) -> &str {
    match &answer.decision.outcome {
        Outcome::Forward(forward) => &forward.cluster.name,
        Outcome::Reply(reply) => &reply.details,
        Outcome::Reset => "reset",
    }
}

#[test]
fn productpage_reaches_reviews_by_weight_match_and_retry_rule() {
    let Some((plan, _)) = plan("productpage-v1") else { return };
    let mut counts = BTreeMap::new();
    for seed in 0..400 {
        let answer =
            outbound(&plan, "10.96.1.1:9080", Request::new(Method::Get, "reviews:9080", "/reviews/0"), seed);
        *counts.entry(cluster(&answer).to_owned()).or_insert(0) += 1;
        let forward = answer.decision.forward().unwrap();
        assert_eq!(
            forward.cluster.connect_timeout,
            Duration::from_secs(10).min(forward.cluster.connect_timeout)
        );
        assert!(answer.request.headers.get_str("x-request-id").is_some());
        assert_eq!(answer.request.headers.get_str("x-envoy-peer-metadata-id"), Some("sidecar~me"));
        assert_eq!(forward.alpn.as_ref().unwrap().first().map(|a| &**a), Some("istio-http/1.1"));
    }
    let share = |name: &str| {
        counts.get(&format!("outbound|9080|{name}|reviews.default.svc.cluster.local")).copied().unwrap_or(0)
    };
    assert!(share("v1") > 150 && share("v3") > 150 && share("v1") + share("v3") == 400, "{counts:?}");

    let jason = Request::new(Method::Get, "reviews:9080", "/reviews/0").with_header("end-user", "jason");
    let answer = outbound(&plan, "10.96.1.1:9080", jason, 1);
    assert_eq!(answer.decision.route_name(), "jason", "{:#?}", answer.explanation);
    assert_eq!(cluster(&answer), "outbound|9080|v2|reviews.default.svc.cluster.local");
}

#[test]
fn what_is_not_registered_goes_where_it_wanted() {
    let Some((plan, _)) = plan("productpage-v1") else { return };
    let answer = outbound(&plan, "93.184.216.34:80", Request::new(Method::Get, "example.org", "/"), 1);
    assert_eq!(cluster(&answer), "PassthroughCluster", "{:#?}", answer.explanation);
    assert_eq!(answer.decision.route_name(), "allow_any");
}

#[test]
fn ratings_is_rewritten_redirected_delayed_and_aborted_as_its_rules_say() {
    let Some((plan, _)) = plan("reviews-v1") else { return };
    let old = outbound(&plan, "10.96.1.2:9080", Request::new(Method::Get, "ratings:9080", "/old"), 1);
    let Outcome::Reply(reply) = &old.decision.outcome else { panic!("{:#?}", old.explanation) };
    assert_eq!(reply.status, 301);
    assert_eq!(reply.headers.get_str("location"), Some("http://ratings:9080/ratings/0"));
    let mut rewritten = 0;
    let mut aborted = 0;
    for seed in 0..300 {
        let request = Request::new(Method::Get, "ratings:9080", "/v1/ratings/7?x=y");
        let answer = outbound(&plan, "10.96.1.2:9080", request, seed);
        match &answer.decision.outcome {
            Outcome::Forward(_) => {
                rewritten += 1;
                assert_eq!(answer.request.path, "/ratings/7?x=y", "{:#?}", answer.explanation);
                assert_eq!(
                    answer.request.headers.get_str("x-envoy-original-path"),
                    Some("/v1/ratings/7?x=y")
                );
            }
            Outcome::Reply(reply) => {
                aborted += 1;
                assert_eq!((reply.status, &*reply.details), (500, "fault_filter_abort"));
                assert!(answer.decision.flags.has(ResponseFlags::FAULT_INJECTED));
                // Where it would have gone is what it is counted for.
                assert!(answer.decision.destination().is_some_and(|c| !c.metadata.services.is_empty()));
            }
            Outcome::Reset => panic!("reset"),
        }
    }
    assert!(rewritten > 280, "{rewritten} {aborted}");
    let mut waited = 0;
    for path in ["/ratings/0", "/v1/ratings/0"] {
        let request = Request::new(Method::Get, "ratings:9080", path).with_header("end-user", "jason");
        waited += u64::from(outbound(&plan, "10.96.1.2:9080", request, 3).waited == Duration::from_secs(7));
    }
    assert!(waited > 0, "jason waits");
}

/// A connection from a peer of the mesh, as the inbound listener sees it.
fn inbound(principal: &str, port: u16, protocols: &[&str]) -> Connection {
    let mut connection =
        Connection::new("10.244.1.7:50000".parse().unwrap(), format!("10.244.1.9:{port}").parse().unwrap());
    connection.local_restored = true;
    connection.transport = TransportProtocol::Tls;
    connection.application_protocols = protocols.iter().map(|p| Arc::from(*p)).collect();
    connection.tls = Some(Arc::new(TlsInfo {
        peer_verified: true,
        peer_presented: true,
        peer_uris: [Arc::from(principal)].into_iter().collect(),
        ..TlsInfo::default()
    }));
    connection
}

#[test]
fn only_ratings_may_reach_the_database() {
    let Some((plan, _)) = plan("mysqldb-v1") else { return };
    let listener = plan.listener("virtualInbound").unwrap();
    for (account, allowed) in [("bookinfo-ratings", true), ("bookinfo-reviews", false)] {
        let principal = format!("spiffe://cluster.local/ns/default/sa/{account}");
        let connection = inbound(&principal, 3306, &["istio-peer-exchange", "istio"]);
        let chain = listener.choose(&connection, &mut ()).unwrap();
        let mut explanation = Explanation::default();
        let mut rng = SeededRandom::new(1);
        let decided =
            decide_connection(&plan, chain, &connection, SystemTime::UNIX_EPOCH, &mut rng, &mut explanation);
        match decided.outcome {
            ConnectionOutcome::Tcp(forward) => {
                assert!(allowed, "{account}");
                assert_eq!(&*forward.cluster.name, "inbound|3306||");
                assert_eq!(&*decided.policies[0].policy, "ns[default]-policy[db]-rule[0]");
            }
            ConnectionOutcome::Close { details } => {
                assert!(!allowed, "{account}: {explanation:?}");
                assert_eq!(details, "rbac_access_denied_matched_policy[none]");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_gateway_routes_by_host_and_redirects_to_tls() {
    let Some((plan, rejections)) = plan("istio-ingressgateway-0") else { return };
    assert!(rejections.is_empty(), "{rejections:?}");
    let mut seen = Vec::new();
    for listener in plan.listeners() {
        let port = listener.socket().unwrap().port();
        let mut connection = Connection::new(
            "198.51.100.7:1".parse().unwrap(),
            format!("10.244.1.19:{port}").parse().unwrap(),
        );
        if listener.all_chains().any(|c| !c.matches.server_names.is_empty()) {
            connection.server_name = "bookinfo.example.com".into();
            connection.transport = TransportProtocol::Tls;
            connection.tls = Some(Arc::new(TlsInfo::default()));
        }
        let Some(chain) = listener.choose(&connection, &mut ()) else { continue };
        let mut rng = SeededRandom::new(1);
        let decided = decide_connection(&plan, chain, &connection, SystemTime::UNIX_EPOCH, &mut rng, &mut ());
        let ConnectionOutcome::Http(hcm) = decided.outcome else { continue };
        let request = Request::new(Method::Get, "bookinfo.example.com", "/productpage")
            .with_header("x-envoy-retry-on", "5xx");
        let answer = ask(&plan, &hcm, &connection, Direction::Outbound, request, 1);
        assert_eq!(answer.request.headers.get_str("x-forwarded-for"), Some("198.51.100.7"));
        assert_eq!(answer.request.headers.get_str("x-envoy-external-address"), Some("198.51.100.7"));
        assert_eq!(answer.request.headers.get_str("x-envoy-retry-on"), None, "internal headers from outside");
        seen.push(match &answer.decision.outcome {
            Outcome::Forward(f) => f.cluster.name.to_string(),
            Outcome::Reply(r) => {
                format!("{} {}", r.status, r.headers.get_str("location").unwrap_or_default())
            }
            Outcome::Reset => String::new(),
        });
    }
    assert!(seen.iter().any(|s| s.contains("productpage")), "{seen:?}");
    assert!(seen.iter().any(|s| s == "301 https://bookinfo.example.com/productpage"), "{seen:?}");
}

#[test]
fn the_log_writes_istios_line() {
    let Some((plan, _)) = plan("productpage-v1") else { return };
    let answer =
        outbound(&plan, "10.96.1.1:9080", Request::new(Method::Get, "details:9080", "/details/0"), 1);
    let forward = answer.decision.forward().unwrap();
    let connection = Connection::new("10.244.1.5:40000".parse().unwrap(), "10.96.1.1:9080".parse().unwrap());
    let mut entry = LogEntry::new(&connection, SystemTime::UNIX_EPOCH);
    entry.request = Some(&answer.request);
    entry.response_code = 200;
    entry.route_name = answer.decision.route_name();
    entry.upstream.cluster_raw = &forward.cluster.name;
    let listener = plan.hand_over(plan.listener("virtualOutbound").unwrap(), connection.local).unwrap();
    let chain = listener.choose(&connection, &mut ());
    let logs = listener.all_chains().chain(chain).find_map(|c| match &c.terminal {
        decide::Terminal::Http(hcm) => Some(hcm.access_log.clone()),
        _ => None,
    });
    let log = &logs.unwrap()[0];
    let mut rng = SeededRandom::new(1);
    assert!(!log.wants(&entry, &mut rng), "the filter asks for response.code >= 400");
    entry.response_code = 503;
    assert!(log.wants(&entry, &mut rng));
    let mut line = String::new();
    log.log(&entry, &mut line);
    assert!(
        line.starts_with("[1970-01-01T00:00:00.000Z] \"GET /details/0 HTTP/1.1\" 503 - - - \"-\" 0 0 - - "),
        "{line}"
    );
    assert!(
        line.trim_end().ends_with(
            "outbound|9080||details.default.svc.cluster.local - 10.96.1.1:9080 10.244.1.5:40000 - default"
        ),
        "{line}"
    );
}

#[test]
fn plans_share_what_did_not_change_and_keep_the_last_good() {
    let Some(deltas) = deltas("productpage-v1") else { return };
    let (mut plan, _) = Plan::new().apply(&deltas[0]);
    for delta in &deltas[1..] {
        plan = plan.apply(delta).0;
    }
    let name = "outbound|9080||details.default.svc.cluster.local";
    let before = Arc::clone(plan.cluster_named(name).unwrap());
    let bad = Resource { name: name.into(), version: 2, body: vec![0xff, 0xff].into() };
    let removed: Vec<Arc<str>> = vec!["outbound|9080||ratings.default.svc.cluster.local".into()];
    let delta = Delta { resource_type: ResourceType::Cluster, changed: vec![bad], removed };
    let (next, rejections) = plan.apply(&delta);
    assert_eq!(rejections.len(), 1);
    assert!(Arc::ptr_eq(&before, next.cluster_named(name).unwrap()), "the last good form stays");
    assert!(next.cluster_named("outbound|9080||ratings.default.svc.cluster.local").is_none());
    assert!(
        plan.cluster_named("outbound|9080||ratings.default.svc.cluster.local").is_some(),
        "the old plan is untouched"
    );
    assert_eq!(next.cluster_named(name).unwrap().id, before.id);
    let table = plan.route_table_named("9080").unwrap();
    assert!(Arc::ptr_eq(table, next.route_table_named("9080").unwrap()));
    let (same, _) = next.apply(&deltas[0]);
    assert!(Arc::ptr_eq(&before, same.cluster_named(name).unwrap()), "equal versions are not compiled again");
}
