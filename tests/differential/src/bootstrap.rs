//! One bootstrap for all groups: a listener, a route table and clusters for each. Only addresses differ between the two.

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use crate::case::{Chain, ClusterSpec, EndpointSpec, Group, substituted};

/// Ports are the same for both; each has addresses of its own.
const LISTENERS: u16 = 21_000;
const UPSTREAMS: u16 = 24_000;
const ADMIN: u16 = 20_999;
const FURTHER: [u16; 2] = [26_000, 28_000];
const ASKED: u16 = 30_000;
/// Nobody listens there.
const DEAD: u16 = 20_998;

pub const PROXY: &str = "@PROXY@";
pub const UPSTREAM: &str = "@UPSTREAM@";
pub const FOLDER: &str = "@FOLDER@";

pub fn listener_port(index: usize) -> u16 {
    LISTENERS + index as u16
}

pub fn upstream_port(index: usize) -> u16 {
    UPSTREAMS + index as u16
}

/// More ports of the same upstream, as far as the group's clusters name them.
pub fn further_ports(index: usize, group: &Group) -> Vec<u16> {
    let clusters = || std::iter::once(&group.cluster).chain(group.clusters.values());
    let named = |name: &str| clusters().any(|c| c.endpoints.iter().any(|e| e.at() == name));
    let further = [("live2", FURTHER[0]), ("live3", FURTHER[1])];
    further.into_iter().filter(|(name, _)| named(name)).map(|(_, first)| first + index as u16).collect()
}

/// The port of whoever is asked about connections, if the group's clusters name it.
pub fn asked_port(index: usize, group: &Group) -> Option<u16> {
    let mut clusters = std::iter::once(&group.cluster).chain(group.clusters.values());
    let named = clusters.any(|c| c.endpoints.iter().any(|e| e.at() == "asked"));
    named.then_some(ASKED + index as u16)
}

pub fn admin_port() -> u16 {
    ADMIN
}

/// What every line of the access log tells; the first field says whose line it is.
const LOG: &str = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%\tcode=%RESPONSE_CODE%\tflags=%RESPONSE_FLAGS%\
    \tdetails=%RESPONSE_CODE_DETAILS%\tmethod=%REQ(:METHOD)%\tpath=%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%\
    \tauthority=%REQ(:AUTHORITY)%\tprotocol=%PROTOCOL%\treceived=%BYTES_RECEIVED%\tsent=%BYTES_SENT%\
    \troute=%ROUTE_NAME%\tcluster=%UPSTREAM_CLUSTER%\tattempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT%";

/// The same for a connection of plain TCP.
const TCP_LOG: &str = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%\tflags=%RESPONSE_FLAGS%\
    \tdetails=%RESPONSE_CODE_DETAILS%\tending=%CONNECTION_TERMINATION_DETAILS%\treceived=%BYTES_RECEIVED%\
    \tsent=%BYTES_SENT%\tcluster=%UPSTREAM_CLUSTER%\tattempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT%\
    \tprotocol=%PROTOCOL%\tcode=%RESPONSE_CODE%\thost=%UPSTREAM_HOST%\tsni=%REQUESTED_SERVER_NAME%\
    \tchain=%FILTER_CHAIN_NAME%";

/// With placeholders for what differs.
pub fn bootstrap(groups: &[Group]) -> anyhow::Result<Value> {
    let mut listeners = Vec::new();
    let mut clusters = vec![callers()];
    for (i, group) in groups.iter().enumerate() {
        let fault = || format!("group {}", group.group);
        listeners.push(listener(i, group).with_context(fault)?);
        let mut own = cluster(i, &group.group, &group.cluster).with_context(fault)?;
        if let Some(fields) = &group.upstream_tls {
            own["transport_socket"] = upstream_tls(fields);
        }
        clusters.push(own);
        for (name, spec) in &group.clusters {
            clusters.push(cluster(i, &format!("{}-{name}", group.group), spec).with_context(fault)?);
        }
    }
    Ok(json!({
        "node": {"id": "differential", "cluster": "differential", "locality": {"zone": "here"}},
        "admin": {"address": socket(PROXY, ADMIN)},
        "cluster_manager": {"local_cluster_name": CALLERS},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }))
}

/// Who else calls as the two do, and from where: half of them from the zone that the two are in.
const CALLERS: &str = "callers";

fn callers() -> Value {
    let zone = |zone: &str| {
        json!({
            "locality": {"zone": zone},
            "lb_endpoints": [{"endpoint": {"address": socket(UPSTREAM, DEAD)}}],
        })
    };
    json!({
        "name": CALLERS,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": CALLERS, "endpoints": [zone("here"), zone("there")]},
    })
}

/// The bootstrap of one contestant.
pub fn placed(bootstrap: &Value, proxy: &str, upstream: &str, folder: &str) -> Value {
    let with = |value: &Value, name: &str, text: &str| substituted(value, name, &json!(text));
    with(&with(&with(bootstrap, PROXY, proxy), UPSTREAM, upstream), FOLDER, folder)
}

fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn listener(index: usize, group: &Group) -> anyhow::Result<Value> {
    let mut filters = group.network.iter().map(|f| filter(f, NETWORK)).collect::<anyhow::Result<Vec<_>>>()?;
    let ends = |f: &Map<String, Value>| f.contains_key("echo") || f.contains_key("direct_response");
    match &group.tcp {
        None => filters.push(hcm(group)?),
        Some(_) if group.network.iter().any(ends) => {}
        Some(fields) => filters.push(tcp_proxy(group, fields)),
    }
    let mut listener = json!({
        "name": group.group,
        "address": socket(PROXY, listener_port(index)),
        "filter_chains": [{"name": "only", "filters": filters}],
    });
    if !group.chains.is_empty() {
        let of = |default| group.chains.iter().filter(move |c| c.default == default).map(chain);
        listener["filter_chains"] = of(false).collect();
        of(true).for_each(|chain| listener["default_filter_chain"] = chain);
    }
    if let Some(fields) = &group.tls {
        for chain in listener["filter_chains"].as_array_mut().into_iter().flatten() {
            chain["transport_socket"] = downstream_tls(fields);
        }
    }
    if !group.listener_filters.is_empty() {
        let filters = group.listener_filters.iter().map(|f| filter(f, LISTENER));
        listener["listener_filters"] = filters.collect::<anyhow::Result<Value>>()?;
    }
    extend(&mut listener, &group.listener);
    let listener = substituted(&listener, "${live}", &json!(upstream_port(index).to_string()));
    Ok(substituted(&listener, "${cluster}", &json!(group.group)))
}

fn downstream_tls(fields: &Map<String, Value>) -> Value {
    let file = |name: &str| json!({"filename": format!("{FOLDER}/{name}")});
    let mut context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_certificates": [{"certificate_chain": file("server.pem"), "private_key": file("server.key")}],
            "validation_context": {"trusted_ca": file("root.pem")},
            "alpn_protocols": ["h2", "http/1.1"],
        },
    });
    extend(&mut context, fields);
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

fn upstream_tls(fields: &Map<String, Value>) -> Value {
    let mut context =
        json!({"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"});
    extend(&mut context, fields);
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

/// A chain that says which it is.
fn chain(chain: &Chain) -> Value {
    json!({
        "name": chain.says,
        "filter_chain_match": chain.matches,
        "filters": [{
            "name": "envoy.filters.network.direct_response",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config",
                "response": {"inline_string": chain.says},
            },
        }],
    })
}

fn hcm(group: &Group) -> anyhow::Result<Value> {
    let mut filters = group.filters.iter().map(|f| filter(f, FILTERS)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut router = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"});
    extend(&mut router, &group.router);
    filters.push(json!({"name": "envoy.filters.http.router", "typed_config": router}));
    let mut hcm = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": group.group,
        // How soon the end of a connection is seen.
        "delayed_close_timeout": "0.05s",
        "http_filters": filters,
        "route_config": route_config(group),
    });
    hcm["access_log"] = access_log(LOG, group);
    extend(&mut hcm, &group.hcm);
    if let (true, Some(fields)) = (group.hcm.contains_key("scoped_routes"), hcm.as_object_mut()) {
        fields.remove("route_config");
    }
    Ok(json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": hcm}))
}

fn tcp_proxy(group: &Group, fields: &Map<String, Value>) -> Value {
    let mut tcp = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": group.group,
        "access_log": access_log(TCP_LOG, group),
    });
    extend(&mut tcp, fields);
    if !fields.contains_key("weighted_clusters") {
        tcp["cluster"] = fields.get("cluster").cloned().unwrap_or_else(|| json!("${cluster}"));
    }
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": tcp})
}

fn access_log(usual: &str, group: &Group) -> Value {
    let format = group.log.iter().fold(usual.to_owned(), |format, operator| {
        let name: String = operator.chars().filter(|c| !matches!(c, '%' | '\t' | '=')).collect();
        format!("{format}\t{name}={operator}")
    });
    let mut log = json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": format!("{FOLDER}/access.log"),
            "log_format": {"text_format_source": {"inline_string": format!("{format}\n")}},
        },
    });
    if let Some(filter) = &group.log_filter {
        log["filter"] = filter.clone();
    }
    json!([log])
}

fn route_config(group: &Group) -> Value {
    let mut hosts = group.virtual_hosts.clone();
    if hosts.is_empty() {
        let mut host = json!({"name": "all", "domains": ["*"], "routes": group.routes});
        extend(&mut host, &group.virtual_host);
        hosts.push(host);
    }
    for host in &mut hosts {
        for (i, route) in host["routes"].as_array_mut().into_iter().flatten().enumerate() {
            complete(route, i);
        }
    }
    let mut config = json!({"name": group.group, "virtual_hosts": hosts});
    extend(&mut config, &group.route_config);
    config
}

/// What a route leaves out: a name, a match of everything, the group's own cluster. `to: TEXT` answers with that text.
fn complete(route: &mut Value, index: usize) {
    let Some(fields) = route.as_object_mut() else { return };
    fields.entry("name").or_insert_with(|| json!(format!("r{index}")));
    let matcher = fields.entry("match").or_insert_with(|| json!("/"));
    if let Value::String(prefix) = matcher {
        *matcher = json!({"prefix": prefix.clone()});
    }
    if let Some(text) = fields.remove("to") {
        fields.insert("direct_response".into(), json!({"status": 200, "body": {"inline_string": text}}));
    }
    let ends = ["direct_response", "redirect", "filter_action", "non_forwarding_action"];
    if ends.iter().any(|action| fields.contains_key(*action)) {
        return;
    }
    let action = fields.entry("route").or_insert_with(|| json!({}));
    let named = ["cluster", "cluster_header", "weighted_clusters", "cluster_specifier_plugin"];
    if !named.iter().any(|field| action.get(field).is_some()) {
        action["cluster"] = json!("${cluster}");
    }
}

const FILTERS: &[(&str, &str, &str)] = &[
    ("ext_authz", "envoy.filters.http.ext_authz", "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"),
    ("ratelimit", "envoy.filters.http.ratelimit", "envoy.extensions.filters.http.ratelimit.v3.RateLimit"),
    ("fault", "envoy.filters.http.fault", "envoy.extensions.filters.http.fault.v3.HTTPFault"),
    ("cors", "envoy.filters.http.cors", "envoy.extensions.filters.http.cors.v3.Cors"),
    ("rbac", "envoy.filters.http.rbac", "envoy.extensions.filters.http.rbac.v3.RBAC"),
    (
        "jwt_authn",
        "envoy.filters.http.jwt_authn",
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    ),
    (
        "grpc_stats",
        "envoy.filters.http.grpc_stats",
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    ),
    (
        "adaptive_concurrency",
        "envoy.filters.http.adaptive_concurrency",
        "envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
    ),
    (
        "admission_control",
        "envoy.filters.http.admission_control",
        "envoy.extensions.filters.http.admission_control.v3.AdmissionControl",
    ),
    ("buffer", "envoy.filters.http.buffer", "envoy.extensions.filters.http.buffer.v3.Buffer"),
    ("csrf", "envoy.filters.http.csrf", "envoy.extensions.filters.http.csrf.v3.CsrfPolicy"),
    (
        "local_ratelimit",
        "envoy.filters.http.local_ratelimit",
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    ),
    (
        "header_mutation",
        "envoy.filters.http.header_mutation",
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    ),
    (
        "header_to_metadata",
        "envoy.filters.http.header_to_metadata",
        "envoy.extensions.filters.http.header_to_metadata.v3.Config",
    ),
    (
        "dynamic_forward_proxy",
        "envoy.filters.http.dynamic_forward_proxy",
        "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
    ),
    (
        "ext_proc",
        "envoy.filters.http.ext_proc",
        "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
    ),
    ("grpc_web", "envoy.filters.http.grpc_web", "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"),
    (
        "decompressor",
        "envoy.filters.http.decompressor",
        "envoy.extensions.filters.http.decompressor.v3.Decompressor",
    ),
    ("compressor", "envoy.filters.http.compressor", "envoy.extensions.filters.http.compressor.v3.Compressor"),
    (
        "health_check",
        "envoy.filters.http.health_check",
        "envoy.extensions.filters.http.health_check.v3.HealthCheck",
    ),
];

const NETWORK: &[(&str, &str, &str)] = &[
    ("rbac", "envoy.filters.network.rbac", "envoy.extensions.filters.network.rbac.v3.RBAC"),
    ("echo", "envoy.filters.network.echo", "envoy.extensions.filters.network.echo.v3.Echo"),
    (
        "direct_response",
        "envoy.filters.network.direct_response",
        "envoy.extensions.filters.network.direct_response.v3.Config",
    ),
    (
        "connection_limit",
        "envoy.filters.network.connection_limit",
        "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
    ),
    (
        "local_ratelimit",
        "envoy.filters.network.local_ratelimit",
        "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
    ),
    (
        "ext_authz",
        "envoy.filters.network.ext_authz",
        "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
    ),
    (
        "sni_dynamic_forward_proxy",
        "envoy.filters.network.sni_dynamic_forward_proxy",
        "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig",
    ),
    (
        "sni_cluster",
        "envoy.filters.network.sni_cluster",
        "envoy.extensions.filters.network.sni_cluster.v3.SniCluster",
    ),
];

const LISTENER: &[(&str, &str, &str)] = &[
    (
        "tls_inspector",
        "envoy.filters.listener.tls_inspector",
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    ),
    (
        "http_inspector",
        "envoy.filters.listener.http_inspector",
        "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    ),
    (
        "proxy_protocol",
        "envoy.filters.listener.proxy_protocol",
        "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
    ),
];

/// A filter by its short name, from one of the tables.
fn filter(short: &Map<String, Value>, table: &[(&str, &str, &str)]) -> anyhow::Result<Value> {
    let (key, config) = short.iter().next().context("an empty filter")?;
    let (_, name, message) =
        table.iter().find(|(known, ..)| known == key).with_context(|| format!("filter {key}"))?;
    let mut typed = json!({"@type": format!("type.googleapis.com/{message}")});
    extend(&mut typed, config.as_object().unwrap_or(&Map::new()));
    Ok(json!({"name": name, "typed_config": typed}))
}

fn cluster(index: usize, name: &str, spec: &ClusterSpec) -> anyhow::Result<Value> {
    let live = [EndpointSpec::At("live".into())];
    let specs = if spec.endpoints.is_empty() { &live[..] } else { &spec.endpoints };
    let mut groups: Vec<((u32, &str, Option<u32>), Vec<Value>)> = vec![];
    for spec in specs.iter().filter(|spec| spec.at() != "none") {
        let endpoint = endpoint(index, spec)?;
        match groups.iter_mut().find(|(place, _)| *place == spec.place()) {
            Some((_, endpoints)) => endpoints.push(endpoint),
            None => groups.push((spec.place(), vec![endpoint])),
        }
    }
    if groups.is_empty() {
        groups.push(((0, "", None), Vec::new()));
    }
    let groups = groups.into_iter().map(|((priority, zone, weight), endpoints)| {
        let mut group = json!({"lb_endpoints": endpoints, "priority": priority});
        if !zone.is_empty() {
            group["locality"] = json!({"zone": zone});
        }
        if let Some(weight) = weight {
            group["load_balancing_weight"] = json!(weight);
        }
        group
    });
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": groups.collect::<Value>()},
    });
    extend(&mut cluster, &spec.fields);
    if ["load_assignment", "cluster_type"].iter().all(|field| cluster[field].is_object()) {
        // Clusters that know other clusters, or names, have no endpoints of their own.
        if let Value::Object(fields) = &mut cluster {
            fields.remove("load_assignment");
            fields.remove("type");
        }
    }
    Ok(substituted(&cluster, "${port}", &json!(upstream_port(index))))
}

fn endpoint(index: usize, spec: &EndpointSpec) -> anyhow::Result<Value> {
    let port = match spec.at() {
        "live" => upstream_port(index),
        "live2" => FURTHER[0] + index as u16,
        "live3" => FURTHER[1] + index as u16,
        "asked" => ASKED + index as u16,
        "dead" => DEAD,
        other => anyhow::bail!("endpoint {other:?} is neither live nor dead nor none"),
    };
    let mut value = json!({"endpoint": {"address": socket(UPSTREAM, port)}});
    if let EndpointSpec::Full { endpoint, fields, .. } = spec {
        extend(&mut value["endpoint"], endpoint);
        extend(&mut value, fields);
    }
    Ok(value)
}

fn extend(value: &mut Value, with: &Map<String, Value>) {
    if let Value::Object(fields) = value {
        fields.extend(with.clone());
    }
}
