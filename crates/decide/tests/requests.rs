//! What becomes of requests, by configurations written as people read them in Envoy's documentation.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base::SeededRandom;
use decide::{
    Connection, ConnectionOutcome, Context, Deciding, Decision, Direction, Explanation, Hcm, LogEntry,
    Method, NodeFacts, Outcome, Plan, Request, Response, ResponseFlags, Step, TlsInfo, decide_connection,
};
use proto::{Delta, Rejection, Resource, ResourceType};
use serde_json::{Value, json};
use upstream::{Attempt, RetryOn};

fn delta(resource_type: ResourceType, name: &str, value: &Value) -> Delta {
    let body =
        proto::json::from_value(resource_type.url(), value).unwrap_or_else(|e| panic!("{e:?} in {value}"));
    let resource = Resource { name: name.into(), version: value.to_string().len() as u64, body: body.into() };
    Delta { resource_type, changed: vec![resource], removed: Vec::new() }
}

fn cluster(name: &str) -> Delta {
    delta(ResourceType::Cluster, name, &json!({"name": name, "type": "STATIC"}))
}

fn router() -> Value {
    json!({"name": "envoy.filters.http.router",
        "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}})
}

/// A listener with a connection manager, whose fields `hcm` adds to, and the route table `routes`.
fn listener(mut hcm: Value, filters: Vec<Value>, routes: &Value) -> Value {
    let all: Vec<_> = filters.into_iter().chain([router()]).collect();
    let fields = hcm.as_object_mut().unwrap();
    fields.insert("@type".into(), "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager".into());
    fields.insert("statPrefix".into(), "t".into());
    fields.insert("httpFilters".into(), all.into());
    if !["scopedRoutes", "rds"].iter().any(|other| fields.contains_key(*other)) {
        fields.insert("routeConfig".into(), routes.clone());
    }
    json!({"name": "l", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 8080}},
        "filterChains": [{"filters": [{"name": "hcm", "typedConfig": hcm}]}]})
}

struct World {
    plan: Plan,
    connection: Connection,
    hcm: Arc<Hcm>,
}

fn world(hcm: Value, filters: Vec<Value>, routes: &Value) -> World {
    let mut plan = Plan::new();
    for name in ["a", "b", "c"] {
        plan = plan.apply(&cluster(name)).0;
    }
    let (plan, rejections) = plan.apply(&delta(ResourceType::Listener, "l", &listener(hcm, filters, routes)));
    assert!(rejections.is_empty(), "{rejections:?}");
    let connection = Connection::new("10.0.0.9:1000".parse().unwrap(), "10.0.0.1:8080".parse().unwrap());
    let chain = plan.listener("l").unwrap().choose(&connection, &mut ()).unwrap().clone();
    let mut rng = SeededRandom::new(1);
    let decided = decide_connection(&plan, &chain, &connection, SystemTime::UNIX_EPOCH, &mut rng, &mut ());
    let ConnectionOutcome::Http(hcm) = decided.outcome else { panic!() };
    World { plan, connection, hcm }
}

fn routes(routes: &Value) -> Value {
    json!({"name": "r", "virtualHosts": [{"name": "v", "domains": ["*"], "routes": routes}]})
}

impl World {
    fn ask(&self, request: &mut Request, seed: u64) -> (Decision, Explanation) {
        let node = NodeFacts::default();
        let cx = Context {
            plan: &self.plan,
            hcm: &self.hcm,
            connection: &self.connection,
            direction: Direction::Inbound,
            node: &node,
            start: SystemTime::UNIX_EPOCH,
            now: std::time::Instant::now(),
        };
        let mut explanation = Explanation::default();
        let mut deciding = Deciding::new(&self.connection);
        let mut rng = SeededRandom::new(seed);
        loop {
            if let Step::Done(decision) = deciding.step(&cx, request, &mut rng, &mut explanation) {
                return (*decision, explanation);
            }
        }
    }

    /// `cluster`, or `status details`.
    fn fate(&self, mut request: Request) -> String {
        match self.ask(&mut request, 1).0.outcome {
            Outcome::Forward(forward) => forward.cluster.name.to_string(),
            Outcome::Reply(reply) => format!("{} {}", reply.status, reply.details),
            Outcome::Reset => "reset".to_owned(),
        }
    }
}

fn get(path: &str) -> Request {
    Request::new(Method::Get, "example.com", path)
}

#[test]
fn the_first_route_that_matches_is_taken() {
    let world = world(
        json!({}),
        vec![],
        &routes(&json!([
            {"match": {"path": "/exact"}, "route": {"cluster": "a"}},
            {"match": {"pathSeparatedPrefix": "/sep"}, "route": {"cluster": "a"}},
            {"match": {"prefix": "/CASE", "caseSensitive": false}, "route": {"cluster": "a"}},
            {"match": {"safeRegex": {"regex": "/re/[0-9]+"}}, "route": {"cluster": "a"}},
            {"match": {"prefix": "/h", "headers": [{"name": "x", "stringMatch": {"exact": "1"}}]}, "route": {"cluster": "a"}},
            {"match": {"prefix": "/q", "queryParameters": [{"name": "k", "stringMatch": {"prefix": "v"}}]}, "route": {"cluster": "a"}},
            {"match": {"prefix": "/g", "grpc": {}}, "route": {"cluster": "a"}},
            {"match": {"prefix": "/missing"}, "route": {"cluster": "nowhere"}},
            {"match": {"prefix": "/none", "headers": [{"name": "no", "presentMatch": true}]}, "route": {"cluster": "a"}},
            {"match": {"prefix": "/"}, "route": {"cluster": "b"}},
        ])),
    );
    for (request, expected) in [
        (get("/exact"), "a"),
        (get("/exact?x"), "a"),
        (get("/exactly"), "b"),
        (get("/sep"), "a"),
        (get("/sep/x"), "a"),
        (get("/separate"), "b"),
        (get("/case/x"), "a"),
        (get("/re/12"), "a"),
        (get("/re/12/x"), "b"),
        (get("/h").with_header("X", "1"), "a"),
        (get("/h").with_header("X", "2"), "b"),
        (get("/q?a=b&k=val"), "a"),
        (get("/q?k=x"), "b"),
        (get("/g").with_header("content-type", "application/grpc"), "a"),
        (get("/g"), "b"),
        (get("/missing"), "503 cluster_not_found"),
        (get("relative"), "404 absolute_path_rejected"),
        (get("/a#b"), "400 path_normalization_failed"),
        (Request::new(Method::Get, "", "/"), "400 missing_host_header"),
        (Request::new(Method::Get, "user@host", "/"), "400 invalid_authority"),
    ] {
        let text = format!("{request:?}");
        assert_eq!(world.fate(request), expected, "{text}");
    }
}

#[test]
fn hosts_choose_the_virtual_host_and_nothing_is_404_nr() {
    let table = json!({"name": "r", "ignorePortInHostMatching": true, "virtualHosts": [
        {"name": "x", "domains": ["a.com", "*.a.com"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]},
        {"name": "y", "domains": ["b.com"], "requireTls": "ALL", "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "b"}}]},
    ]});
    let world = world(json!({}), vec![], &table);
    let to = |host: &str| world.fate(Request::new(Method::Get, host, "/"));
    assert_eq!(to("A.com:8080"), "a");
    assert_eq!(to("x.y.a.com"), "a");
    assert_eq!(to("c.com"), "404 route_not_found");
    assert_eq!(to("b.com"), "301 direct_response");
    let (decision, _) = world.ask(&mut Request::new(Method::Get, "c.com", "/"), 1);
    assert!(decision.flags.has(ResponseFlags::NO_ROUTE_FOUND));
}

#[test]
fn redirects_say_where() {
    for (redirect, path, expected) in [
        (json!({"httpsRedirect": true}), "/x?y", "https://example.com/x?y"),
        (json!({"schemeRedirect": "https", "portRedirect": 8443}), "/", "https://example.com:8443/"),
        (json!({"hostRedirect": "new.org", "responseCode": "PERMANENT_REDIRECT"}), "/x", "http://new.org/x"),
        (json!({"pathRedirect": "/new"}), "/old?q", "http://example.com/new?q"),
        (json!({"pathRedirect": "/new?own"}), "/old?q", "http://example.com/new?own"),
        (json!({"pathRedirect": "/new", "stripQuery": true}), "/old?q", "http://example.com/new"),
        (json!({"prefixRewrite": "/v2"}), "/old/x?q", "http://example.com/v2/x?q"),
        (
            json!({"regexRewrite": {"pattern": {"regex": "^/old/(.*)"}, "substitution": "/n/\\1"}}),
            "/old/x",
            "http://example.com/n/x",
        ),
    ] {
        let prefix = if path.starts_with("/old") { "/old" } else { "/" };
        let world = world(
            json!({}),
            vec![],
            &routes(&json!([{"match": {"prefix": prefix}, "redirect": redirect.clone()}])),
        );
        let Outcome::Reply(reply) = world.ask(&mut get(path), 1).0.outcome else { panic!() };
        assert_eq!(reply.headers.get_str("location"), Some(expected), "{redirect}");
    }
}

#[test]
fn rewrites_leave_the_originals_behind() {
    for (action, path, new) in [
        (json!({"prefixRewrite": "/"}), "/api/x?q", "//x?q"),
        (json!({"prefixRewrite": "/v2/api"}), "/api/x?q", "/v2/api/x?q"),
        (
            json!({"regexRewrite": {"pattern": {"regex": "^/api/(.+)$"}, "substitution": "/\\1"}}),
            "/api/x?q",
            "/x?q",
        ),
    ] {
        let mut route = action.clone();
        route["cluster"] = "a".into();
        route["hostRewriteLiteral"] = "other".into();
        route["appendXForwardedHost"] = true.into();
        let world =
            world(json!({}), vec![], &routes(&json!([{"match": {"prefix": "/api"}, "route": route}])));
        let mut request = get(path);
        world.ask(&mut request, 1);
        assert_eq!(request.path, new, "{action}");
        assert_eq!(request.headers.get_str("x-envoy-original-path"), Some(path));
        assert_eq!(
            (request.authority.as_str(), request.headers.get_str("x-forwarded-host")),
            ("other", Some("example.com"))
        );
    }
}

#[test]
fn weights_are_shares_of_whatever_they_add_up_to() {
    let weights = json!([{"name": "a", "weight": 1}, {"name": "b", "weight": 3}, {"name": "c", "weight": 0}]);
    let route = json!({"weightedClusters": {"clusters": weights}});
    let world = world(json!({}), vec![], &routes(&json!([{"match": {"prefix": "/"}, "route": route}])));
    let mut counts = [0; 3];
    for seed in 0..4000 {
        let (decision, _) = world.ask(&mut get("/"), seed);
        let name = decision.forward().unwrap().cluster.name.clone();
        counts[usize::from(name.as_bytes()[0] - b'a')] += 1;
    }
    assert!(counts[0] > 880 && counts[0] < 1120 && counts[2] == 0, "{counts:?}");
}

#[test]
fn headers_are_added_and_removed_by_level_with_formats() {
    let add = |key: &str, value: &str, action: &str| json!({"header": {"key": key, "value": value}, "appendAction": action});
    let table = json!({"name": "r",
        "requestHeadersToAdd": [add("x-level", "table", "OVERWRITE_IF_EXISTS_OR_ADD")],
        "responseHeadersToAdd": [add("x-code", "%RESPONSE_CODE%", "APPEND_IF_EXISTS_OR_ADD")],
        "virtualHosts": [{"name": "v", "domains": ["*"], "includeRequestAttemptCount": true,
            "requestHeadersToAdd": [add("x-level", "host", "OVERWRITE_IF_EXISTS_OR_ADD")],
            "requestHeadersToRemove": ["x-secret"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a"},
                "requestHeadersToAdd": [
                    add("x-level", "route", "OVERWRITE_IF_EXISTS_OR_ADD"),
                    add("x-client", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%-%REQ(X-USER)%", "APPEND_IF_EXISTS_OR_ADD"),
                    add("x-absent", "%REQ(X-NONE)%", "APPEND_IF_EXISTS_OR_ADD"),
                    add("x-kept", "new", "ADD_IF_ABSENT")],
                "responseHeadersToRemove": ["x-powered-by"]}]}]});
    let world = world(json!({"serverName": "istio-envoy"}), vec![], &table);
    let mut request =
        get("/").with_header("x-secret", "1").with_header("x-user", "jo").with_header("x-kept", "old");
    let (decision, _) = world.ask(&mut request, 1);
    for (name, expected) in [
        ("x-level", Some("table")),
        ("x-client", Some("10.0.0.9-jo")),
        ("x-absent", None),
        ("x-kept", Some("old")),
        ("x-secret", None),
        ("x-envoy-attempt-count", Some("1")),
        ("x-envoy-expected-rq-timeout-ms", Some("15000")),
        ("x-forwarded-proto", Some("http")),
    ] {
        assert_eq!(request.headers.get_str(name), expected, "{name}");
    }
    let mut response = Response::new(201);
    response.headers.append("x-powered-by", "x");
    response.headers.append("server", "theirs");
    let entry = LogEntry { response_code: 201, ..LogEntry::new(&world.connection, SystemTime::UNIX_EPOCH) };
    decision.respond(
        &world.hcm,
        &NodeFacts::default(),
        &entry,
        Some(Duration::from_millis(7)),
        1,
        &mut response,
    );
    decision.finish(&world.hcm, &mut response);
    for (name, expected) in [
        ("x-powered-by", None),
        ("x-code", Some("201")),
        ("server", Some("istio-envoy")),
        ("x-envoy-upstream-service-time", Some("7")),
    ] {
        assert_eq!(response.headers.get_str(name), expected, "{name}");
    }
}

#[test]
fn timeouts_and_retries_are_the_routes_own() {
    let route = json!({"cluster": "a", "timeout": "0.5s", "maxGrpcTimeout": "2s", "retryPolicy": {
        "retryOn": "5xx,connect-failure", "numRetries": 3, "perTryTimeout": "2s", "hostSelectionRetryMaxAttempts": "5",
        "retryHostPredicate": [{"name": "envoy.retry_host_predicates.previous_hosts"}]}});
    let world = world(json!({}), vec![], &routes(&json!([{"match": {"prefix": "/"}, "route": route}])));
    let (decision, _) = world.ask(&mut get("/"), 1);
    let forward = decision.forward().unwrap();
    assert_eq!(forward.timeout, Some(Duration::from_millis(500)));
    assert_eq!(forward.per_try_timeout, None, "longer than the whole");
    let retry = forward.retry.as_ref().unwrap();
    assert!(retry.policy.on.has(RetryOn::FIVE_XX) && retry.policy.avoid_previous_hosts);
    assert_eq!((retry.policy.retries, retry.policy.host_attempts), (3, 6));
    assert!(matches!(retry.attempt_of(&Response::new(503)), Attempt::Response { status: 503, .. }));
    let mut grpc =
        get("/").with_header("content-type", "application/grpc").with_header("grpc-timeout", "100m");
    let (decision, _) = world.ask(&mut grpc, 1);
    assert_eq!(decision.forward().unwrap().timeout, Some(Duration::from_millis(100)));
    let mut grpc = get("/").with_header("content-type", "application/grpc").with_header("grpc-timeout", "9S");
    assert_eq!(world.ask(&mut grpc, 1).0.forward().unwrap().timeout, Some(Duration::from_secs(2)));
}

fn rbac(rules: &Value) -> Value {
    json!({"name": "envoy.filters.http.rbac",
        "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": rules}})
}

#[test]
fn policies_allow_deny_and_cannot_be_walked_round() {
    let any = json!([{"any": true}]);
    let deny = rbac(&json!({"action": "DENY", "policies": {"no admin": {
        "principals": any, "permissions": [{"urlPath": {"path": {"prefix": "/admin"}}}]}}}));
    let allow = rbac(&json!({"action": "ALLOW", "policies": {"get": {
        "principals": [{"orIds": {"ids": [
            {"authenticated": {"principalName": {"exact": "spiffe://cluster.local/ns/default/sa/web"}}},
            {"directRemoteIp": {"addressPrefix": "10.0.0.0", "prefixLen": 24}}]}}],
        "permissions": [{"andRules": {"rules": [
            {"header": {"name": ":method", "stringMatch": {"exact": "GET"}}},
            {"notRule": {"destinationPort": 9999}}]}}]}}}));
    let routes = routes(&json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]));
    let mut world = world(json!({"normalizePath": true, "mergeSlashes": true}), vec![deny, allow], &routes);
    let denied = "403 rbac_access_denied_matched_policy[no_admin]";
    for path in ["/admin", "/x/../admin", "/x/%2e%2e/admin", "//admin", "/admin?x", "/.//admin/x"] {
        assert_eq!(world.fate(get(path)), denied, "{path}");
    }
    assert_eq!(world.fate(get("/x")), "a");
    assert_eq!(
        world.fate(Request::new(Method::Post, "h", "/x")),
        "403 rbac_access_denied_matched_policy[none]"
    );
    world.connection.remote = "10.0.1.9:1".parse().unwrap();
    assert_eq!(world.fate(get("/x")), "403 rbac_access_denied_matched_policy[none]");
    let tls = |verified| TlsInfo {
        peer_verified: verified,
        peer_uris: [Arc::from("spiffe://cluster.local/ns/default/sa/web")].into_iter().collect(),
        ..TlsInfo::default()
    };
    world.connection.tls = Some(Arc::new(tls(true)));
    assert_eq!(world.fate(get("/x")), "a");
    world.connection.tls = Some(Arc::new(tls(false)));
    assert_eq!(world.fate(get("/x")), "403 rbac_access_denied_matched_policy[none]", "an unproven name");
    let (_, explanation) = world.ask(&mut get("/x"), 1);
    assert!(
        explanation.notes.iter().any(|n| n.reason == "no ALLOW policy matches: denied"),
        "{explanation:?}"
    );
}

/// A DENY for everybody and one permission or principal, before a route of everything.
fn denying(rule: &str, what: &Value) -> World {
    let any = json!([{"any": true}]);
    let (mut principals, mut permissions) = (any.clone(), any);
    match rule {
        "principals" => principals = json!([what]),
        _ => permissions = json!([what]),
    }
    let deny = rbac(&json!({"action": "DENY", "policies": {"p": {
        "principals": principals, "permissions": permissions}}}));
    let routes = routes(&json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]));
    world(json!({"normalizePath": true, "mergeSlashes": true}), vec![deny], &routes)
}

const DENIED: &str = "403 rbac_access_denied_matched_policy[p]";

#[test]
fn repeated_headers_and_bytes_that_are_no_text_do_not_hide_a_value_from_a_rule() {
    for (kind, matched) in [
        ("exact", json!({"exact": "admin"})),
        ("prefix", json!({"prefix": "adm"})),
        ("suffix", json!({"suffix": "min"})),
        ("contains", json!({"contains": "dmi"})),
        ("regex", json!({"safeRegex": {"regex": "a.*n"}})),
    ] {
        for rule in ["principals", "permissions"] {
            let world = denying(rule, &json!({"header": {"name": "x-role", "stringMatch": matched}}));
            for values in [&["admin"][..], &["user", "admin"], &["admin", "user"], &["", "admin"]] {
                let request = values.iter().fold(get("/"), |r, v| r.with_header("x-role", v));
                assert_eq!(world.fate(request), DENIED, "{kind} of {values:?}");
            }
            assert_eq!(world.fate(get("/").with_header("x-role", "user")), "a", "{kind}");
        }
    }
    let world = denying(
        "principals",
        &json!({"header": {"name": "x-role", "stringMatch": {"safeRegex": {"regex": "admin.*"}}}}),
    );
    let mut request = get("/");
    request.headers.append("x-role", bytes::Bytes::from_static(b"admin\xff\xfe"));
    assert_eq!(world.fate(request), DENIED);
}

#[test]
fn fragments_parameters_and_templates_are_no_way_round_a_rule() {
    let prefix = denying("permissions", &json!({"urlPath": {"path": {"prefix": "/admin"}}}));
    for path in ["/admin;x=y", "/admin/;x", "/x;y/../admin", "/admin?#", "/%61dmin", "/\\admin"] {
        let fate = prefix.fate(get(path));
        assert!(fate == DENIED || fate.starts_with("400 "), "{path}: {fate}");
    }
    for path in ["/x#/../admin", "/admin#", "/#/admin", "/%00/admin", "admin", ""] {
        let fate = prefix.fate(get(path));
        assert!(fate.starts_with('4'), "{path:?}: {fate}");
    }
    let template = denying(
        "permissions",
        &json!({"uriTemplate": {"name": "t", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
            "pathTemplate": "/secret/*/key"}}}),
    );
    for path in ["/secret/a/key", "/secret/*/key", "/secret/%2A/key", "/x/../secret/a/key", "/secret//a/key"]
    {
        assert_eq!(template.fate(get(path)), DENIED, "{path}");
    }
}

#[test]
fn internal_headers_are_not_believed_from_outside() {
    let table = routes(&json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]));
    let mut world = world(json!({"useRemoteAddress": true}), vec![], &table);
    world.connection.remote = "203.0.113.9:1".parse().unwrap();
    let internal = [
        "x-envoy-internal",
        "x-envoy-retry-on",
        "x-envoy-max-retries",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-original-path",
        "x-envoy-original-host",
        "x-envoy-decorator-operation",
        "x-envoy-force-trace",
        "x-envoy-downstream-service-cluster",
        "x-envoy-hedge-on-per-try-timeout",
        "x-envoy-ip-tags",
    ];
    let mut request = internal.iter().fold(get("/"), |r, name| r.with_header(name, "1"));
    request = request.with_header("x-forwarded-for", "10.0.0.1");
    let (decision, _) = world.ask(&mut request, 1);
    let Outcome::Forward(forward) = decision.outcome else { panic!() };
    assert!(forward.retry.is_none(), "retries that somebody outside asked for");
    for name in internal {
        assert_eq!(request.headers.get_str(name).filter(|v| *v == "1"), None, "{name}");
    }
    assert_eq!(request.headers.get_str("x-forwarded-for"), Some("10.0.0.1,203.0.113.9"));
}

#[test]
fn preflights_are_answered_and_origins_marked() {
    let cors = json!({"name": "envoy.filters.http.cors",
        "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"}});
    let policy = json!({"envoy.filters.http.cors": {"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allowOriginStringMatch": [{"exact": "https://example.com"}], "allowMethods": "GET", "maxAge": "86400"}});
    let world = world(
        json!({}),
        vec![cors],
        &routes(&json!([
        {"match": {"prefix": "/"}, "route": {"cluster": "a"}, "typedPerFilterConfig": policy}])),
    );
    let preflight = |origin: &str| {
        Request::new(Method::Options, "h", "/")
            .with_header("origin", origin)
            .with_header("access-control-request-method", "GET")
    };
    let Outcome::Reply(reply) = world.ask(&mut preflight("https://example.com"), 1).0.outcome else {
        panic!()
    };
    assert_eq!((reply.status, reply.headers.get_str("access-control-max-age")), (200, Some("86400")));
    assert_eq!(world.fate(preflight("https://evil.com")), "a", "forwarded unless told otherwise");
    let (decision, _) = world.ask(&mut get("/").with_header("origin", "https://example.com"), 1);
    let mut response = Response::new(200);
    let entry = LogEntry::new(&world.connection, SystemTime::UNIX_EPOCH);
    decision.respond(&world.hcm, &NodeFacts::default(), &entry, None, 1, &mut response);
    decision.finish(&world.hcm, &mut response);
    assert_eq!(response.headers.get_str("access-control-allow-origin"), Some("https://example.com"));
}

#[test]
fn upgrades_pass_only_where_they_are_allowed() {
    let table = routes(&json!([
        {"match": {"prefix": "/no"}, "route": {"cluster": "a", "upgradeConfigs": [{"upgradeType": "websocket", "enabled": false}]}},
        {"match": {"prefix": "/"}, "route": {"cluster": "a"}}]));
    let allowed = world(json!({"upgradeConfigs": [{"upgradeType": "websocket"}]}), vec![], &table);
    let upgrade = |path| Request { upgrade: Some("websocket".into()), ..get(path) };
    assert_eq!(allowed.fate(upgrade("/")), "a");
    assert_eq!(allowed.fate(upgrade("/no")), "403 upgrade_failed");
    assert_eq!(world(json!({}), vec![], &table).fate(upgrade("/")), "403 upgrade_failed");
}

#[test]
fn our_own_answers_are_shaped_for_who_asked() {
    let mapper = json!({"localReplyConfig": {"mappers": [{"filter": {"statusCodeFilter": {"comparison": {"op": "EQ",
        "value": {"defaultValue": 404, "runtimeKey": "x"}}}}, "statusCode": 410,
        "headersToAdd": [{"header": {"key": "x-m", "value": "1"}}]}],
        "bodyFormat": {"jsonFormat": {"code": "%RESPONSE_CODE%", "text": "%LOCAL_REPLY_BODY%"}}}});
    let world = world(mapper, vec![], &routes(&json!([])));
    let finish = |mut request: Request| {
        let Outcome::Reply(reply) = world.ask(&mut request, 1).0.outcome else { panic!() };
        let entry =
            LogEntry { request: Some(&request), ..LogEntry::new(&world.connection, SystemTime::UNIX_EPOCH) };
        world.hcm.finish_reply(&reply, &entry, request.is_grpc(), &mut SeededRandom::new(1))
    };
    let plain = finish(get("/"));
    assert_eq!((plain.response.status, plain.response.headers.get_str("x-m")), (410, Some("1")));
    assert_eq!(plain.response.headers.get_str("content-type"), Some("application/json"));
    assert_eq!(serde_json::from_slice::<Value>(&plain.body).unwrap(), json!({"code": 410, "text": ""}));
    let grpc = finish(get("/").with_header("content-type", "application/grpc"));
    assert_eq!((grpc.response.status, grpc.response.grpc_status()), (200, Some(2)));
    assert!(grpc.body.is_empty());
}

fn refusals(hcm: Value, filters: Vec<Value>, routes: &Value) -> Vec<Rejection> {
    Plan::new().apply(&delta(ResourceType::Listener, "l", &listener(hcm, filters, routes))).1
}

#[test]
fn what_is_not_honoured_is_refused_by_the_name_of_its_field() {
    let hcm = "filterChains[0].filters[0].typedConfig";
    let table = routes(&json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]));
    let route = |match_: Value, action: Value| routes(&json!([{"match": match_, "route": action}]));
    let prefix = json!({"prefix": "/"});
    for (rejections, field) in [
        (refusals(json!({"addUserAgent": true}), vec![], &table), "addUserAgent"),
        (
            refusals(
                json!({}),
                vec![json!({"name": "x", "typedConfig": {"@type":
            "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"}})],
                &table,
            ),
            "httpFilters[0].typedConfig.@type",
        ),
        (
            refusals(
                json!({}),
                vec![],
                &route(json!({"safeRegex": {"regex": "("}}), json!({"cluster": "a"})),
            ),
            "routeConfig.virtualHosts[0].routes[0].match.safeRegex.regex",
        ),
        (
            refusals(
                json!({}),
                vec![],
                &route(prefix.clone(), json!({"cluster": "a", "hedgePolicy": {"initialRequests": 2}})),
            ),
            "routeConfig.virtualHosts[0].routes[0].route.hedgePolicy.initialRequests",
        ),
        (
            refusals(
                json!({}),
                vec![],
                &route(prefix.clone(), json!({"cluster": "a", "retryPolicy": {"retryOn": "5xx,never"}})),
            ),
            "routeConfig.virtualHosts[0].routes[0].route.retryPolicy.retryOn",
        ),
        (
            refusals(
                json!({}),
                vec![],
                &route(prefix, json!({"weightedClusters": {"clusters": [{"name": "a", "weight": 0}]}})),
            ),
            "routeConfig.virtualHosts[0].routes[0].route.weightedClusters.clusters",
        ),
    ] {
        assert_eq!(rejections.len(), 1, "{field}");
        assert_eq!(rejections[0].field, format!("{hcm}.{field}"), "{}", rejections[0].reason);
    }
}

/// CVE-2022-21679: a rule of a later version than ours, of which we see no more than that there is one, disables nothing: it
/// is refused by name, and what was accepted before stays.
#[test]
fn a_rule_of_another_version_is_refused_and_disables_no_rule() {
    let any = json!([{"any": true}]);
    let policy = |principals: &Value, permissions: &Value| {
        rbac(
            &json!({"action": "DENY", "policies": {"p": {"principals": principals, "permissions": permissions}}}),
        )
    };
    let routes = routes(&json!([{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]));
    let world = world(json!({}), vec![policy(&any, &any)], &routes);
    let unknown = json!([{}]);
    let nested = json!([{"andRules": {"rules": [{}]}}]);
    let nested_ids = json!([{"andIds": {"ids": [{}]}}]);
    for (principals, permissions) in
        [(&any, &unknown), (&unknown, &any), (&any, &nested), (&nested_ids, &any)]
    {
        let changed = listener(json!({}), vec![policy(principals, permissions)], &routes);
        let (plan, rejections) = world.plan.apply(&delta(ResourceType::Listener, "l", &changed));
        assert_eq!(rejections.len(), 1, "{principals} {permissions}");
        let chain = plan.listener("l").unwrap().choose(&world.connection, &mut ()).unwrap().clone();
        let mut rng = SeededRandom::new(1);
        let start = SystemTime::UNIX_EPOCH;
        let decided = decide_connection(&plan, &chain, &world.connection, start, &mut rng, &mut ());
        let ConnectionOutcome::Http(hcm) = decided.outcome else { panic!() };
        let kept = World { plan, connection: world.connection.clone(), hcm };
        assert_eq!(kept.fate(get("/")), "403 rbac_access_denied_matched_policy[p]");
    }
}

/// Scopes as they come and go by SRDS; their tables inline or by RDS.
#[test]
fn scopes_come_and_go_and_no_key_is_of_two() {
    let builder = json!({"fragments": [{"headerValueExtractor": {"name": "x-scope", "index": 0}}]});
    let scoped = json!({"name": "s", "scopeKeyBuilder": builder,
        "scopedRds": {"scopedRdsConfigSource": {"ads": {}}}, "rdsConfigSource": {"ads": {}}});
    let mut world = world(json!({"scopedRoutes": scoped}), vec![], &json!({}));
    let key = |key: &str| json!({"fragments": [{"stringKey": key}]});
    let to = |name: &str, cluster: &str| {
        json!({"name": name, "virtualHosts": [{"name": "v", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}]})
    };
    let of = |world: &World, scope: &str| world.fate(get("/").with_header("x-scope", scope));
    let apply = |world: &mut World, name: &str, scope: Value| {
        let (plan, rejections) = world.plan.apply(&delta(ResourceType::ScopedRoute, name, &scope));
        world.plan = plan;
        rejections.into_iter().map(|r| format!("{}: {}", r.field, r.reason)).collect::<Vec<_>>()
    };
    assert_eq!(of(&world, "one"), "404 route_not_found");
    let inline = json!({"name": "first", "key": key("one"), "routeConfiguration": to("t", "a")});
    assert!(apply(&mut world, "first", inline.clone()).is_empty());
    let by_rds = json!({"name": "second", "key": key("two"), "routeConfigurationName": "r"});
    assert!(apply(&mut world, "second", by_rds).is_empty());
    assert_eq!((of(&world, "one"), of(&world, "two")), ("a".into(), "404 route_not_found".into()));
    assert_eq!(world.plan.wanted_route_tables(), ["r".into()]);
    world.plan = world.plan.apply(&delta(ResourceType::Route, "r", &to("r", "b"))).0;
    assert_eq!(of(&world, "two"), "b");
    let taken = json!({"name": "third", "key": key("one"), "routeConfiguration": to("t", "c")});
    assert_eq!(apply(&mut world, "third", taken.clone()), ["key: is the key of another scope as well"]);
    // A scope may change its key, and another take the one that it had.
    let moved = json!({"name": "first", "key": key("moved"), "routeConfiguration": to("t", "a")});
    assert!(apply(&mut world, "first", moved).is_empty());
    assert!(apply(&mut world, "third", taken).is_empty());
    assert_eq!((of(&world, "one"), of(&world, "moved")), ("c".into(), "a".into()));
    let mut gone = delta(ResourceType::ScopedRoute, "first", &inline);
    gone.changed.clear();
    gone.removed.push("third".into());
    world.plan = world.plan.apply(&gone).0;
    assert_eq!((of(&world, "one"), of(&world, "moved")), ("404 route_not_found".into(), "a".into()));
    let on_demand = json!({"name": "x", "onDemand": true, "key": key("x"), "routeConfigurationName": "r"});
    assert!(apply(&mut world, "x", on_demand)[0].starts_with("onDemand: "));
}

/// Virtual hosts that come by VHDS stand beside their table's own, and one that lacks is asked for.
#[test]
fn virtual_hosts_come_and_go_and_are_asked_for() {
    let mut world = world(
        json!({"rds": {"routeConfigName": "r", "configSource": {"ads": {}}}}),
        vec![json!({"name": "on_demand", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand"}})],
        &json!({}),
    );
    let apply = |world: &mut World, delta: &proto::Delta| {
        let (plan, rejections) = world.plan.apply(delta);
        world.plan = plan;
        rejections.into_iter().map(|r| format!("{} {}", r.name, r.field)).collect::<Vec<_>>()
    };
    let host = |domain: &str, cluster: &str| json!({"name": "v", "domains": [domain], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]});
    let table = |own: &str| {
        delta(
            ResourceType::Route,
            "r",
            &json!({"name": "r", "virtualHosts": [host(own, "a")],
            "vhds": {"configSource": {"ads": {}}}}),
        )
    };
    let of = |world: &World, authority: &str| world.fate(Request::new(Method::Get, authority, "/"));
    assert!(apply(&mut world, &table("own.example")).is_empty());
    let more = |name: &str, domain: &str| delta(ResourceType::VirtualHost, name, &host(domain, "b"));
    assert!(apply(&mut world, &more("r/x", "x.example")).is_empty());
    assert!(apply(&mut world, &more("other/y", "y.example")).is_empty(), "its table may come");
    assert_eq!((of(&world, "own.example"), of(&world, "X.example")), ("a".into(), "b".into()));
    assert!(world.plan.has_virtual_host("r/x.example") && !world.plan.has_virtual_host("r/y.example"));
    // A domain is there once; who had it before keeps it, and what else came is taken.
    let mut two = more("r/z", "own.example");
    two.changed.extend(more("r/w", "w.example").changed);
    assert_eq!(apply(&mut world, &two), ["r/z domains[0]"]);
    assert_eq!(apply(&mut world, &more("r/x", "OWN.example")), ["r/x domains[0]"]);
    assert_eq!((of(&world, "w.example"), of(&world, "x.example")), ("b".into(), "b".into()));
    // Another form of the table has them too, but for one whose domain it has itself.
    assert!(apply(&mut world, &table("w.example")).is_empty());
    assert_eq!((of(&world, "w.example"), of(&world, "x.example")), ("a".into(), "b".into()));
    // One that lacks is asked for, once.
    let (_, told) = world.ask(&mut Request::new(Method::Get, "Y.example:80", "/"), 1);
    assert!(format!("{told:?}").contains("r/y.example:80"), "{told:?}");
    assert_eq!(of(&world, "y.example"), "404 route_not_found");
    let mut gone = more("r/x", "x.example");
    gone.changed.clear();
    gone.removed.push("r/x".into());
    assert!(apply(&mut world, &gone).is_empty());
    assert!(!world.plan.has_virtual_host("r/x.example"));
    // With their table they go.
    let mut without =
        delta(ResourceType::Route, "r", &json!({"name": "r", "virtualHosts": [host("w.example", "a")]}));
    assert!(apply(&mut world, &without).is_empty());
    without = table("own.example");
    assert!(apply(&mut world, &without).is_empty());
    assert!(!world.plan.has_virtual_host("r/w.example"));
}
