use serde_json::json;

use super::*;

fn dump() -> Value {
    let chain = |matches: Value, filter: Value| json!({"filterChainMatch": matches, "filters": [filter]});
    let http = json!({"name": "http", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "rds": {"routeConfigName": "9080"}}});
    let tcp = json!({"name": "tcp", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "weighted_clusters": {"clusters": [{"name": "a", "weight": 1}, {"name": "b", "weight": 3}]}}});
    json!({"configs": [
        {"dynamicListeners": [
            {"name": "virtualOutbound", "activeState": {"listener": {
                "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 15001}},
                "filterChains": [chain(json!({}), tcp)]}}},
            {"name": "0.0.0.0_9080", "activeState": {"listener": {
                "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 9080}},
                "filterChains": [chain(json!({"transportProtocol": "raw_buffer",
                    "applicationProtocols": ["http/1.1", "h2c"]}), http)],
                "defaultFilterChain": {"filters": []}}}},
        ]},
        {"dynamicRouteConfigs": [{"routeConfig": {"name": "9080", "virtualHosts": [{
            "name": "reviews.default.svc.cluster.local:9080",
            "domains": ["reviews", "reviews.default", "reviews.default.svc"],
            "routes": [
                {"match": {"prefix": "/", "headers": [{"name": "end-user", "stringMatch": {"exact": "jason"}}]},
                 "route": {"cluster": "outbound|9080|v2|reviews.default.svc.cluster.local"},
                 "metadata": {"filterMetadata": {"istio": {"config":
                     "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews"}}}},
                {"match": {"path": "/old"}, "redirect": {"httpsRedirect": true}},
                {"match": {"safeRegex": {"regex": "/a.*"}}, "directResponse": {"status": 404}},
            ]}]}}]},
        {"dynamicActiveClusters": [
            {"cluster": {"name": "outbound|9080|v2|reviews.default.svc.cluster.local", "type": "EDS"}},
            {"cluster": {"name": "BlackHoleCluster"}},
        ]},
        {"dynamicEndpointConfigs": [{"endpointConfig": {
            "clusterName": "outbound|9080|v2|reviews.default.svc.cluster.local",
            "endpoints": [{"locality": {"region": "r", "zone": "z"}, "lbEndpoints": [
                {"endpoint": {"address": {"socketAddress": {"address": "10.44.0.3", "portValue": 9080}}},
                 "healthStatus": "DRAINING",
                 "metadata": {"filterMetadata": {"envoy.transport_socket_match": {"tlsMode": "istio"}}}}]}]}}]},
        {"dynamicActiveSecrets": [{"name": "kubernetes://shop", "secret": {"tlsCertificate": {
            "certificateChain": {"inlineString": "nonsense"}, "privateKey": {"inlineString": "SECRET"}}}}]},
    ]})
}

#[test]
fn listeners_say_what_they_match_and_where_it_leads() {
    let lines = listeners::view(&dump(), None).lines;
    let expected = [
        ["ADDRESS", "PORT", "MATCH", "DESTINATION"],
        ["0.0.0.0", "9080", "Trans: raw_buffer; App: http/1.1,h2c", "Route: 9080"],
        ["0.0.0.0", "9080", "else", "closed at once"],
        ["0.0.0.0", "15001", "ALL", "Cluster: a (1), b (3)"],
    ];
    assert_eq!(lines, expected);
    assert_eq!(listeners::view(&dump(), Some(9080)).resources.len(), 1);
}

#[test]
fn routes_say_what_they_match_and_who_wrote_them() {
    let lines = routes::view(&dump(), None).lines;
    assert_eq!(
        lines[1],
        [
            "9080",
            "reviews.default.svc.cluster.local:9080",
            "reviews, reviews.default + 1 more",
            "/* end-user: jason",
            "outbound|9080|v2|reviews.default.svc.cluster.local",
            "reviews.default"
        ]
    );
    assert_eq!(lines[2][3..], ["/old", "redirect to https", "-"]);
    assert_eq!(lines[3][3..], ["regex /a.*", "answers 404", "-"]);
    assert_eq!(routes::view(&dump(), Some("80")).lines.len(), 1);
}

#[test]
fn clusters_are_taken_apart_by_their_names() {
    let lines = clusters::view(&dump(), None, None).lines;
    assert_eq!(lines[1], ["BlackHoleCluster", "-", "-", "-", "STATIC", "-"]);
    assert_eq!(lines[2], ["reviews.default.svc.cluster.local", "9080", "v2", "outbound", "EDS", "-"]);
    assert_eq!(clusters::view(&dump(), Some("reviews"), Some(9080)).lines.len(), 2);
}

#[test]
fn endpoints_have_health_place_and_cluster() {
    let lines = endpoints::view(&dump(), Some("reviews")).lines;
    let cluster = "outbound|9080|v2|reviews.default.svc.cluster.local";
    assert_eq!(
        lines[1..],
        [["10.44.0.3:9080", "DRAINING", "r/z", "mutual", cluster].map(str::to_owned).to_vec()]
    );
}

#[test]
fn secrets_are_shown_without_what_is_secret() {
    let view = secrets::view(&dump());
    assert_eq!(view.lines[1], ["kubernetes://shop", "Cert Chain", "ACTIVE", "-", "-", "-"]);
    assert!(!serde_json::to_string(&view.resources).unwrap().contains("SECRET"));
    assert_eq!(
        shown(&json!({"a": [{"private_key": "SECRET"}]})),
        json!({"a": [{"private_key": "[redacted]"}]})
    );
}

#[test]
fn the_certificate_that_the_agent_holds_is_shown_by_its_identity() {
    let dump = json!({"configs": [secrets::of_agent("spiffe://td/ns/a/sa/b")]});
    let lines = secrets::view(&dump).lines;
    assert_eq!(lines[1], ["default", "Cert Chain", "BY ITS AGENT", "-", "-", "spiffe://td/ns/a/sa/b"]);
}
