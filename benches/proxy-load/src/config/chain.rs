//! The mesh chain: what Istio's sidecars do with each request, in the words of Envoy's own extensions.

use std::path::Path;

use serde_json::{Value, json};

use super::envoy::{Bootstrap, Hop, cluster, extension, listener, mutual_tls, typed};
use crate::keys::HOST;

/// The access log's format as Istio sets it.
const LOG: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
    \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
    %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Which way a sidecar's chain looks, and with what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain<'a> {
    pub(crate) port: u16,
    pub(crate) upstream: u16,
    /// Where spans go.
    pub(crate) spans: u16,
    pub(crate) log: &'a Path,
    pub(crate) hop: Hop<'a>,
    pub(crate) side: Side<'a>,
    /// Istio's metrics as well, which stock Envoy does not have.
    pub(crate) istio_stats: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Side<'a> {
    /// Routing, and who may ask.
    Both,
    /// Routing.
    Outbound,
    /// Mutual TLS ends here, and only this identity may ask.
    Inbound { caller: &'a str },
}

impl Chain<'_> {
    pub(crate) fn bootstrap(&self) -> Bootstrap {
        let (direction, tls) = match self.side {
            Side::Outbound => ("OUTBOUND", None),
            Side::Both => ("INBOUND", None),
            Side::Inbound { .. } => ("INBOUND", Some(mutual_tls())),
        };
        let mut listener = listener(self.port, self.manager(), tls);
        listener["traffic_direction"] = direction.into();
        Bootstrap {
            listeners: vec![listener],
            clusters: vec![
                cluster("answer", self.upstream, self.hop),
                cluster("zipkin", self.spans, Hop::default()),
            ],
            ..Bootstrap::default()
        }
    }

    fn manager(&self) -> Value {
        let mut config = json!({
            "stat_prefix": "mesh",
            "normalize_path": true,
            "stream_idle_timeout": "0s",
            "access_log": [extension(
                "envoy.access_loggers.file",
                "envoy.extensions.access_loggers.file.v3.FileAccessLog",
                json!({"path": self.log, "log_format": {"text_format_source": {"inline_string": LOG}}}),
            )],
            "tracing": tracing(),
            "route_config": self.routes(),
            "http_filters": self.filters(),
        });
        if let Side::Inbound { .. } = self.side {
            config["server_name"] = "istio-envoy".into();
            config["forward_client_cert_details"] = "APPEND_FORWARD".into();
            config["set_current_client_cert_details"] = json!({"subject": true, "dns": true, "uri": true});
        }
        manager(config)
    }

    fn filters(&self) -> Vec<Value> {
        let mut all = match self.side {
            Side::Outbound => Vec::new(),
            Side::Both => policy(&json!({"any": true})).to_vec(),
            Side::Inbound { caller } => {
                policy(&json!({"authenticated": {"principal_name": {"exact": caller}}})).to_vec()
            }
        };
        let empty = || json!({});
        let grpc = json!({"emit_filter_state": true, "stats_for_all_methods": false});
        all.extend([
            extension(
                "envoy.filters.http.grpc_stats",
                "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
                grpc,
            ),
            extension(
                "envoy.filters.http.fault",
                "envoy.extensions.filters.http.fault.v3.HTTPFault",
                empty(),
            ),
            extension("envoy.filters.http.cors", "envoy.extensions.filters.http.cors.v3.Cors", empty()),
        ]);
        if self.istio_stats {
            let config = json!({"type_url": "type.googleapis.com/stats.PluginConfig", "value": {}});
            all.push(extension("istio.stats", "udpa.type.v1.TypedStruct", config));
        }
        all.push(router());
        all
    }

    fn routes(&self) -> Value {
        if let Side::Inbound { .. } = self.side {
            let all = json!({"match": {"prefix": "/"}, "route": {"cluster": "answer", "timeout": "0s"}});
            return json!({"name": "inbound", "virtual_hosts":
                [{"name": "inbound|http|80", "domains": ["*"], "routes": [all]}]});
        }
        let action = json!({"cluster": "answer", "timeout": "0s", "retry_policy": {
            "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
            "num_retries": 2,
            "retry_host_predicate": [extension("envoy.retry_host_predicates.previous_hosts",
                "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", json!({}))],
            "host_selection_retry_max_attempts": "5",
        }});
        let route = |condition: Value| json!({"match": condition, "route": action});
        let user = json!([{"name": "end-user", "string_match": {"exact": "jason"}}]);
        let routes = [
            route(json!({"prefix": "/", "headers": user})),
            route(json!({"path": "/login"})),
            route(json!({"prefix": "/api/v1/products"})),
            route(json!({"prefix": "/"})),
        ];
        let mut hosts: Vec<Value> = (0..20)
            .map(|number| {
                let name = format!("service-{number}.default.svc.cluster.local");
                json!({"name": name, "domains": [name, format!("service-{number}")], "routes": routes})
            })
            .collect();
        hosts.push(json!({"name": HOST, "domains": [HOST, "answer"], "routes": routes,
            "include_request_attempt_count": true}));
        json!({"name": "80", "virtual_hosts": hosts, "ignore_port_in_host_matching": true})
    }
}

pub(crate) fn router() -> Value {
    extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", json!({}))
}

pub(crate) fn manager(config: Value) -> Value {
    let of = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    extension("envoy.filters.network.http_connection_manager", of, config)
}

/// One policy that denies, which nobody meets, and one that allows this principal.
fn policy(principal: &Value) -> [Value; 2] {
    let rbac = |action: &str, name: &str, policy: Value| {
        let config = json!({"rules": {"action": action, "policies": {name: policy}}});
        extension("envoy.filters.http.rbac", "envoy.extensions.filters.http.rbac.v3.RBAC", config)
    };
    let path = json!({"url_path": {"path": {"prefix": "/admin"}}});
    let get = json!({"header": {"name": ":method", "string_match": {"exact": "GET"}}});
    let post = json!({"header": {"name": ":method", "string_match": {"exact": "POST"}}});
    let all = |rules: Value| json!({"and_rules": {"rules": rules}});
    let any = |rules: Value| json!({"or_rules": {"rules": rules}});
    [
        rbac(
            "DENY",
            "ns[default]-policy[deny]-rule[0]",
            json!({"permissions": [all(json!([any(json!([path]))]))], "principals": [{"any": true}]}),
        ),
        rbac(
            "ALLOW",
            "ns[default]-policy[allow]-rule[0]",
            json!({"permissions": [all(json!([any(json!([get, post]))]))],
                "principals": [{"and_ids": {"ids": [{"or_ids": {"ids": [principal]}}]}}]}),
        ),
    ]
}

/// One request in a hundred.
fn tracing() -> Value {
    let zipkin = json!({
        "collector_cluster": "zipkin",
        "collector_endpoint": "/api/v2/spans",
        "collector_endpoint_version": "HTTP_JSON",
        "trace_id_128bit": true,
        "shared_span_context": false,
    });
    json!({
        "client_sampling": {"value": 100.0},
        "random_sampling": {"value": 1.0},
        "overall_sampling": {"value": 100.0},
        "provider": {"name": "envoy.tracers.zipkin",
            "typed_config": typed("envoy.config.trace.v3.ZipkinConfig", zipkin)},
    })
}
