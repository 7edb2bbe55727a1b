//! Which fields are honoured: one table, from which refusals at apply and the documentation both come.
//!
//! A field that the table does not name is honoured. Nothing is ignored in silence: a field that does nothing here is
//! refused, or, where it cannot change what happens to a request, warned about.

use serde_json::Value;

use crate::error::{FieldError, Path, Validation};
use crate::kind::Kind;
use crate::schema;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    Honoured,
    /// A resource that sets it is refused, for this reason.
    Refused(&'static str),
    /// A resource that sets it is accepted; this is what people should know.
    Warned(&'static str),
}

/// A line of the documentation: one field of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The kind, or `MeshConfig`.
    pub kind: &'static str,
    /// Below `spec`; `[]` stands for the entries of a list, `{}` for those of a map; `=VALUE` for one value.
    pub path: String,
    /// JSON type; `object`s are followed by their fields.
    pub kind_of_value: String,
    pub description: String,
    pub support: Support,
}

/// A path as in [`Row`]; `**.` in front stands for any path.
type Rule = (&'static str, Support);

use Support::{Refused, Warned};

const VIRTUAL_SERVICE: &[Rule] = &[
    (
        "http[].delegate",
        Refused("delegation to another VirtualService is not built yet; write the routes here"),
    ),
    ("http[].match[].statPrefix", Refused("statistics per route are not built yet; take the field out")),
    (
        "http[].retries.retryRemoteLocalities",
        Refused("retries prefer what load balancing prefers; take it out"),
    ),
    ("http[].fault.delay.exponentialDelay", Refused("not built yet, nor in Istio; write fixedDelay")),
    ("http[].fault.abort.http2Error", Refused("not built yet, nor in Istio; write httpStatus or grpcStatus")),
    (
        "tcp[].match[].sourceSubnet",
        Refused("not built yet, nor in Istio; write sourceLabels or sourceNamespace"),
    ),
    ("http[].mirrorPercent", Warned("deprecated; write mirrorPercentage")),
    ("http[].mirror_percent", Warned("deprecated; write mirrorPercentage")),
    ("http[].corsPolicy.allowOrigin", Warned("deprecated; write allowOrigins with exact")),
    ("http[].fault.delay.percent", Warned("deprecated; write percentage")),
];

const DESTINATION_RULE: &[Rule] = &[
    ("**.tunnel", Refused("tunnels through a proxy are not built yet")),
    ("**.proxyProtocol", Refused("PROXY protocol towards services is not built yet")),
    (
        "**.retryBudget.budgetInterval",
        Refused("retries are measured against the requests of the moment; take it out"),
    ),
    ("**.loadBalancer.zoneAwareLbSetting", Refused("not built yet; write localityLbSetting")),
    ("**.loadBalancer.warmupDurationSecs", Warned("deprecated; write warmup.duration")),
    ("**.loadBalancer.simple=LEAST_CONN", Warned("deprecated; write LEAST_REQUEST, which it means")),
    ("**.consistentHash.minimumRingSize", Warned("deprecated; write ringHash.minimumRingSize")),
    (
        "**.outlierDetection.consecutiveErrors",
        Refused("without effect, as in Istio; write consecutive5xxErrors or consecutiveGatewayErrors"),
    ),
    (
        "**.outlierDetection.outlierDetectionHttpErrorCodes",
        Refused("not built yet; 5xx are what counts as errors"),
    ),
    ("**.tls.caCrl", Refused("lists of revoked certificates are not built yet")),
];

const GATEWAY: &[Rule] = &[
    ("servers[].defaultEndpoint", Refused("without effect, as in Istio; write a VirtualService")),
    ("servers[].port.targetPort", Refused("deprecated; the gateway's Service says which port it listens on")),
    ("servers[].tls.caCrl", Refused("lists of revoked certificates are not built yet")),
    (
        "servers[].tls.credentialNames",
        Refused("several certificates per server are not built yet; write credentialName"),
    ),
    (
        "servers[].tls.tlsCertificates",
        Refused("several certificates per server are not built yet; write credentialName"),
    ),
    (
        "servers[].tls.verifyCertificateSpki",
        Refused("pinning of clients' keys is not built yet; write subjectAltNames"),
    ),
    (
        "servers[].tls.verifyCertificateHash",
        Refused("pinning of clients' certificates is not built yet; write subjectAltNames"),
    ),
    (
        "servers[].tls.insecureSkipVerify",
        Refused("clients' certificates are always verified; write mode SIMPLE to ask for none"),
    ),
    ("servers[].tls.minProtocolVersion=TLSV1_0", Refused("TLS 1.0 and 1.1 are not spoken; write TLSV1_2")),
    ("servers[].tls.minProtocolVersion=TLSV1_1", Refused("TLS 1.0 and 1.1 are not spoken; write TLSV1_2")),
    ("servers[].tls.maxProtocolVersion=TLSV1_0", Refused("TLS 1.0 and 1.1 are not spoken; write TLSV1_2")),
    ("servers[].tls.maxProtocolVersion=TLSV1_1", Refused("TLS 1.0 and 1.1 are not spoken; write TLSV1_2")),
];

const SERVICE_ENTRY: &[Rule] = &[(
    "resolution=DYNAMIC_DNS",
    Refused("resolution per request is not built yet; write DNS and name the hosts"),
)];

const SIDECAR: &[Rule] = &[
    (
        "ingress[].bind",
        Refused("calls are captured on every address of the workload; take it out, or write defaultEndpoint"),
    ),
    ("ingress[].tls", Refused("TLS for callers outside of the mesh is not built yet; use a Gateway")),
    ("ingress[].captureMode=NONE", Refused("all traffic is captured; take it out")),
    ("egress[].captureMode=NONE", Refused("all traffic is captured; take it out")),
    ("ingress[].port.targetPort", Refused("deprecated; write defaultEndpoint")),
    ("egress[].port.targetPort", Refused("deprecated and without effect")),
    ("egress[].port.protocol=HTTP_PROXY", Refused("an HTTP forward proxy is not built yet; write HTTP")),
    (
        "outboundTrafficPolicy.egressProxy",
        Refused("not built yet; route by a VirtualService and a ServiceEntry"),
    ),
];

const WORKLOAD_GROUP: &[Rule] =
    &[("probe", Refused("readiness is told by `mizzen run --ready`; probes of a group are not built yet"))];

const PROXY_CONFIG: &[Rule] = &[
    ("image", Refused("proxies are not run from images here")),
    ("environmentVariables", Refused("not built yet; set the variable where the proxy is started")),
];

const TARGET_REFS: &str = "attaching to Gateway API resources is not built yet; write selector";

const AUTHORIZATION_POLICY: &[Rule] = &[
    ("targetRef", Refused(TARGET_REFS)),
    ("targetRefs", Refused(TARGET_REFS)),
    ("rules[].when[].key=experimental.*", Refused("attributes of other filters are not built yet")),
];

const REQUEST_AUTHENTICATION: &[Rule] = &[
    (
        "jwtRules[].presence=REQUIRED",
        Refused("not built yet, nor in Istio; write an AuthorizationPolicy that asks for requestPrincipals"),
    ),
    ("targetRef", Refused(TARGET_REFS)),
    ("targetRefs", Refused(TARGET_REFS)),
];

const FILTER_STATE: &str =
    "not built yet; peers are told by attributes of envoyOtelAls or by envoyFileAccessLog";
const HEADER_OF_ENVIRONMENT: &str = "not built yet; write value";

const TELEMETRY: &[Rule] = &[
    ("targetRef", Refused(TARGET_REFS)),
    ("targetRefs", Refused(TARGET_REFS)),
    ("metrics[].overrides", Refused("changes to single metrics are not built yet")),
    ("metrics[].reportingInterval", Refused("TCP metrics are always up to date; take it out")),
    (
        "tracing[].useRequestIdForTraceSampling=false",
        Refused("x-request-id always carries the decision to sample; take it out"),
    ),
];

const MESH_CONFIG: &[Rule] = &[
    ("proxyListenPort", Refused("captured outbound connections always go to 15001")),
    ("proxyInboundListenPort", Refused("captured inbound connections always go to 15006")),
    ("proxyHttpPort", Refused("an HTTP forward proxy is not built yet")),
    ("hboneIdleTimeout", Refused("HBONE is not built yet")),
    (
        "defaultHttpRetryPolicy.retryRemoteLocalities",
        Refused("retries prefer what load balancing prefers; take it out"),
    ),
    ("ingressClass", Warned("Ingress resources are not read; write a Gateway")),
    ("ingressService", Warned("Ingress resources are not read; write a Gateway")),
    ("ingressControllerMode", Warned("Ingress resources are not read; write a Gateway")),
    ("ingressSelector", Warned("Ingress resources are not read; write a Gateway")),
    ("enableEnvoyAccessLogService", Refused("access logs over gRPC are not built yet")),
    ("disableEnvoyListenerLog", Warned("without effect: listeners log nothing of their own")),
    ("configSources", Refused("resources come from the API server only")),
    ("caCertificates", Refused("further roots of trust are not built yet")),
    ("zoneAwareLbSetting", Refused("not built yet; write localityLbSetting")),
    ("inboundClusterStatName", Refused("statistics keep their usual names")),
    ("outboundClusterStatName", Refused("statistics keep their usual names")),
    ("certificates", Refused("DNS certificates are not built, nor in Istio")),
    ("serviceScopeConfigs", Refused("ambient mode is not built yet")),
    (
        "enablePrometheusMerge",
        Warned("metrics of application, agent and proxy are always served merged on 15020"),
    ),
    ("verifyCertificateAtClient", Warned("deprecated; servers' certificates are always verified")),
    ("verifyCertificateAtClient=false", Refused("servers' certificates are always verified; take it out")),
    (
        "enablePrometheusMerge=false",
        Warned("metrics of application, agent and proxy are always served merged on 15020"),
    ),
    ("meshMTLS.ecdhCurves", Refused("the mesh's own TLS takes no curves, as in Istio; take it out")),
    (
        "defaultTrafficPolicy.outlierDetection.consecutiveErrors",
        Refused("without effect, as in Istio; write consecutive5xxErrors or consecutiveGatewayErrors"),
    ),
    (
        "defaultTrafficPolicy.outlierDetection.outlierDetectionHttpErrorCodes",
        Refused("not built yet; 5xx are what counts as errors"),
    ),
    ("ca", Refused("a remote certificate authority is not built yet")),
    ("serviceEntryVisibility", Refused("not built yet; write exportTo in each ServiceEntry")),
    ("outboundTrafficPolicy.tls", Refused("not built yet")),
    ("outboundTrafficPolicy.mode=ALLOW_ANY_DYNAMIC_DNS", Refused("not built yet; write ALLOW_ANY")),
    ("extensionProviders[].lightstep", Refused("write zipkin or opentelemetry")),
    ("extensionProviders[].datadog", Refused("write zipkin or opentelemetry")),
    ("extensionProviders[].stackdriver", Refused("write zipkin or opentelemetry")),
    ("extensionProviders[].opencensus", Refused("write zipkin or opentelemetry")),
    ("extensionProviders[].skywalking", Refused("write zipkin or opentelemetry")),
    ("extensionProviders[].envoyHttpAls.filterStateObjectsToLog", Refused(FILTER_STATE)),
    ("extensionProviders[].envoyTcpAls.filterStateObjectsToLog", Refused(FILTER_STATE)),
    ("extensionProviders[].sds", Refused("secrets come from the control plane and the agent only")),
    ("extensionProviders[].zipkin.headers[].envName", Refused(HEADER_OF_ENVIRONMENT)),
    ("extensionProviders[].opentelemetry.http.headers[].envName", Refused(HEADER_OF_ENVIRONMENT)),
    ("extensionProviders[].opentelemetry.grpc.initialMetadata[].envName", Refused(HEADER_OF_ENVIRONMENT)),
    ("extensionProviders[].opentelemetry.resourceDetectors", Refused("not built yet")),
    (
        "extensionProviders[].opentelemetry.dynatraceSampler",
        Refused("not built yet; write randomSamplingPercentage in a Telemetry"),
    ),
    ("extensionProviders[].opentelemetry.serviceAttributeEnrichment", Refused("not built yet")),
    ("defaultConfig.configPath", Warned("the agent keeps no configuration files")),
    ("defaultConfig.binaryPath", Warned("proxy and agent are one program")),
    (
        "defaultConfig.discoveryAddress",
        Warned("a proxy is told the control plane's address where it starts: `mizzen run --control-plane`"),
    ),
    (
        "defaultConfig.drainDuration",
        Refused(
            "connections of a listener that changes are never cut; write terminationDrainDuration for the end of a proxy",
        ),
    ),
    ("defaultConfig.proxyAdminPort", Refused("the proxy's admin endpoint is always on 15000; take it out")),
    ("defaultConfig.statusPort", Refused("the agent's status is always on 15020; take it out")),
    (
        "defaultConfig.proxyMetadata",
        Refused("not built yet; set the variable where the proxy is started (DNS is always captured)"),
    ),
    (
        "defaultConfig.holdApplicationUntilProxyStarts=false",
        Refused("an application always starts after its proxy is ready; take it out"),
    ),
    ("defaultConfig.proxyStatsMatcher", Warned("every statistic of a proxy is always kept")),
    ("defaultConfig.serviceCluster", Refused("write tracingServiceName")),
    ("defaultConfig.discoveryRefreshDelay", Warned("deprecated and without effect")),
    (
        "defaultConfig.zipkinAddress",
        Refused("deprecated; write tracing.zipkin.address, or an extension provider"),
    ),
    ("defaultConfig.statsdUdpAddress", Refused("statistics are scraped; statsd is not built")),
    (
        "defaultConfig.envoyMetricsServiceAddress",
        Refused("statistics are scraped; the metrics service is not built"),
    ),
    (
        "defaultConfig.envoyMetricsService",
        Refused("statistics are scraped; the metrics service is not built"),
    ),
    ("defaultConfig.envoyAccessLogService", Refused("access logs over gRPC are not built yet")),
    ("defaultConfig.availabilityZone", Warned("deprecated; a workload's labels say its locality")),
    ("defaultConfig.controlPlaneAuthPolicy", Warned("the control plane is always reached over TLS")),
    (
        "defaultConfig.customConfigFile",
        Refused("bootstraps of one's own are given to `mizzen-proxy --config`"),
    ),
    (
        "defaultConfig.proxyBootstrapTemplatePath",
        Refused("bootstraps of one's own are given to `mizzen-proxy --config`"),
    ),
    ("defaultConfig.statNameLength", Warned("names of statistics are never cut")),
    ("defaultConfig.sds", Warned("deprecated; certificates always come by SDS")),
    ("defaultConfig.runtimeValues", Refused("the proxy has no runtime values")),
    ("defaultConfig.extraStatTags", Refused("further labels of metrics are not built yet")),
    ("defaultConfig.gatewayTopology.proxyProtocol", Refused("PROXY protocol at gateways is not built yet")),
    ("defaultConfig.readinessProbe", Refused("readiness is told by `mizzen run --ready`")),
    ("defaultConfig.caCertificatesPem", Refused("further roots of trust are not built yet")),
    ("defaultConfig.image", Refused("proxies are not run from images here")),
    ("defaultConfig.privateKeyProvider", Refused("keys stay in the agent's memory; hardware is not used")),
    ("defaultConfig.proxyHeaders", Refused("the proxy's headers cannot be changed yet")),
    ("defaultConfig.fileFlushInterval", Warned("access logs are written without delay")),
    ("defaultConfig.fileFlushMinSizeKb", Warned("access logs are written without delay")),
    ("defaultConfig.statsCompression", Warned("statistics are never compressed")),
    ("defaultConfig.connectionSettings", Refused("not built yet")),
    ("defaultConfig.interceptionMode=TPROXY", Refused("traffic is captured by redirection; write REDIRECT")),
    ("defaultConfig.interceptionMode=NONE", Refused("all traffic is captured; write REDIRECT")),
    ("defaultConfig.tracing.lightstep", Refused("write zipkin, or an extension provider")),
    ("defaultConfig.tracing.datadog", Refused("write zipkin, or an extension provider")),
    ("defaultConfig.tracing.stackdriver", Refused("write zipkin, or an extension provider")),
    ("defaultConfig.tracing.openCensusAgent", Refused("write zipkin, or an extension provider")),
    (
        "defaultConfig.tracing.tlsSettings",
        Refused("not built yet; write a DestinationRule for the collector"),
    ),
];

/// Kinds of Istio that have no types here, and why.
const UNSUPPORTED_KINDS: &[(&str, &str)] = &[
    ("EnvoyFilter", "patches of Envoy's configuration are not supported; use a typed resource"),
    ("WasmPlugin", "extensions by WebAssembly are not built yet"),
    ("TrafficExtension", "extensions are not built yet"),
];

/// Annotations that change what a resource does, and are not built.
const ANNOTATIONS: &[(Kind, &str, &str)] = &[(
    Kind::AuthorizationPolicy,
    "istio.io/dry-run",
    "trying a policy out is not built yet; use `mizzen explain`, or take the annotation out",
)];

/// Refuses annotations that would have to change what the resource does.
pub(crate) fn check_annotations(kind: Kind, annotations: &Value, out: &mut Validation) {
    let path = Path::root("metadata").field("annotations");
    for (of, name, reason) in ANNOTATIONS.iter().filter(|(of, _, _)| *of == kind) {
        if annotations[name].as_str().is_some_and(|value| value != "false") {
            out.error(FieldError::forbidden(
                &path.key(name),
                format!("{name} on {of} is not supported: {reason}"),
            ));
        }
    }
}

fn rules(kind: Kind) -> &'static [Rule] {
    match kind {
        Kind::VirtualService => VIRTUAL_SERVICE,
        Kind::DestinationRule => DESTINATION_RULE,
        Kind::Gateway => GATEWAY,
        Kind::ServiceEntry => SERVICE_ENTRY,
        Kind::Sidecar => SIDECAR,
        Kind::WorkloadGroup => WORKLOAD_GROUP,
        Kind::ProxyConfig => PROXY_CONFIG,
        Kind::AuthorizationPolicy => AUTHORIZATION_POLICY,
        Kind::RequestAuthentication => REQUEST_AUTHENTICATION,
        Kind::Telemetry => TELEMETRY,
        Kind::WorkloadEntry | Kind::PeerAuthentication => &[],
    }
}

/// Why a kind of Istio's has no types here.
pub fn unsupported_kind(name: &str) -> Option<&'static str> {
    UNSUPPORTED_KINDS.iter().find(|(kind, _)| *kind == name).map(|(_, reason)| *reason)
}

/// Refuses and warns about the fields that a spec sets.
pub(crate) fn check(kind: Kind, spec: &Value, out: &mut Validation) {
    walk(rules(kind), schema::spec(kind), spec, &Path::root("spec"), "", out);
}

/// The same for MeshConfig; what was warned about and has no type is taken out.
pub(crate) fn check_mesh_config(config: &mut Value, out: &mut Validation) {
    walk(MESH_CONFIG, schema::mesh_config(), config, &Path::root(""), "", out);
    for (rule, support) in MESH_CONFIG.iter().filter(|(rule, _)| !rule.contains('=')) {
        let untyped = field_schema(schema::mesh_config(), rule).is_none();
        if untyped && matches!(support, Warned(_)) {
            remove(config, rule);
        }
    }
}

/// The schema tells maps from messages: a label may be called as a field is.
fn walk(rules: &[Rule], schema: &Value, value: &Value, path: &Path, general: &str, out: &mut Validation) {
    let unset = is_unset(value);
    for (rule, support) in rules.iter().filter(|(rule, _)| applies(rule, general, value)) {
        match support {
            _ if unset && !rule.contains('=') => {}
            Refused(reason) => {
                out.error(FieldError::forbidden(path, format!("{} is not supported: {reason}", last(rule))));
                return;
            }
            Warned(text) => out.warn(path, text),
            Support::Honoured => {}
        }
    }
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(rules, &schema["items"], item, &path.index(index), &format!("{general}[]"), out);
            }
        }
        Value::Object(entries) if schema["additionalProperties"].is_object() => {
            for (key, child) in entries {
                let schema = &schema["additionalProperties"];
                walk(rules, schema, child, &path.key(key), &format!("{general}{{}}"), out);
            }
        }
        Value::Object(fields) => {
            for (name, child) in fields {
                let field = if general.is_empty() { name.clone() } else { format!("{general}.{name}") };
                walk(rules, &schema["properties"][name], child, &path.field(name), &field, out);
            }
        }
        _ => {}
    }
}

/// What protobuf does not tell from an absent field. An empty message counts as set.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(true) | Value::Object(_) => false,
    }
}

fn applies(rule: &str, general: &str, value: &Value) -> bool {
    let (pattern, wanted) = rule.split_once('=').map_or((rule, None), |(path, wanted)| (path, Some(wanted)));
    let here = match pattern.strip_prefix("**.") {
        Some(end) => {
            general.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        }
        None => pattern == general,
    };
    here && wanted.is_none_or(|wanted| match value {
        Value::Bool(flag) => wanted == flag.to_string(),
        Value::String(text) => wanted
            .strip_suffix('*')
            .map_or(text.eq_ignore_ascii_case(wanted), |prefix| text.starts_with(prefix)),
        _ => false,
    })
}

/// The field or value that a rule is about, for messages.
fn last(rule: &str) -> String {
    let (path, value) = rule.split_once('=').map_or((rule, None), |(path, value)| (path, Some(value)));
    let field = path.rsplit('.').next().unwrap_or(path);
    value.map_or_else(|| field.to_string(), |value| format!("{field} {value}"))
}

fn remove(config: &mut Value, rule: &str) {
    let (parents, field) = rule.rsplit_once('.').unwrap_or(("", rule));
    let mut nodes = vec![config];
    for step in parents.split('.').filter(|step| !step.is_empty()) {
        let name = step.trim_end_matches("[]");
        nodes = nodes.into_iter().filter_map(|node| node.get_mut(name)).collect();
        if step.ends_with("[]") {
            nodes = nodes.into_iter().filter_map(Value::as_array_mut).flatten().collect();
        }
    }
    for node in nodes {
        node.as_object_mut().map(|fields| fields.remove(field));
    }
}

/// The schema of the field that a rule without `**` is about.
fn field_schema<'a>(schema: &'a Value, rule: &str) -> Option<&'a Value> {
    let path = rule.split_once('=').map_or(rule, |(path, _)| path);
    path.split('.').try_fold(schema, |schema, step| {
        let name = step.trim_end_matches("[]").trim_end_matches("{}");
        let field = schema["properties"].get(name)?;
        Some(match step.strip_prefix(name) {
            Some("[]") => &field["items"],
            Some("{}") => &field["additionalProperties"],
            _ => field,
        })
    })
}

/// Every field of every kind, in the order of the types, with what becomes of it.
pub fn table() -> Vec<Row> {
    let mut rows = Vec::new();
    for kind in Kind::all() {
        describe(kind.name(), rules(kind), schema::spec(kind), "", &mut rows);
    }
    describe("MeshConfig", MESH_CONFIG, schema::mesh_config(), "", &mut rows);
    for (rule, support) in MESH_CONFIG {
        if field_schema(schema::mesh_config(), rule).is_none() {
            rows.push(Row {
                kind: "MeshConfig",
                path: (*rule).to_string(),
                kind_of_value: String::new(),
                description: String::new(),
                support: *support,
            });
        }
    }
    for (kind, name, reason) in ANNOTATIONS {
        rows.push(Row {
            kind: kind.name(),
            path: format!("metadata.annotations[{name}]"),
            kind_of_value: "string".into(),
            description: String::new(),
            support: Refused(reason),
        });
    }
    for (kind, reason) in UNSUPPORTED_KINDS {
        rows.push(Row {
            kind,
            path: String::new(),
            kind_of_value: "object".into(),
            description: String::new(),
            support: Refused(reason),
        });
    }
    rows
}

fn describe(kind: &'static str, rules: &[Rule], schema: &Value, general: &str, rows: &mut Vec<Row>) {
    let row = |path: &str, support| Row {
        kind,
        path: path.to_string(),
        kind_of_value: schema["type"].as_str().unwrap_or("any").to_string(),
        description: schema["description"].as_str().unwrap_or_default().to_string(),
        support,
    };
    let whole = rules.iter().find(|(rule, _)| !rule.contains('=') && applies(rule, general, &Value::Null));
    if !general.is_empty() && !general.ends_with("[]") && !general.ends_with("{}") {
        rows.push(row(general, whole.map_or(Support::Honoured, |(_, support)| *support)));
        for (rule, support) in rules {
            if let Some((_, value)) = rule.split_once('=')
                && applies(rule, general, &Value::String(value.trim_end_matches('*').to_string()))
            {
                rows.push(row(&format!("{general}={value}"), *support));
            }
        }
    }
    if matches!(whole, Some((_, Refused(_)))) {
        return;
    }
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        let path = if general.is_empty() { name.clone() } else { format!("{general}.{name}") };
        describe(kind, rules, child, &path, rows);
    }
    if schema["items"].is_object() {
        describe(kind, rules, &schema["items"], &format!("{general}[]"), rows);
    }
    if schema["additionalProperties"].is_object() {
        describe(kind, rules, &schema["additionalProperties"], &format!("{general}{{}}"), rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_about_a_field_that_exists() {
        let table = table();
        for kind in Kind::all() {
            for (rule, _) in rules(kind) {
                let matches = |row: &&Row| {
                    let end = rule.strip_prefix("**.").unwrap_or(rule);
                    row.kind == kind.name() && (row.path == end || row.path.ends_with(&format!(".{end}")))
                };
                let found = table.iter().find(matches);
                assert!(found.is_some_and(|row| row.support != Support::Honoured), "{kind}: {rule}");
            }
        }
    }

    #[test]
    fn labels_may_be_called_as_fields_are() {
        let mut out = Validation::default();
        let labels = serde_json::json!({"tunnel": "a", "proxyProtocol": "b"});
        let spec = serde_json::json!({"host": "a", "subsets": [{"name": "a", "labels": labels}]});
        check(Kind::DestinationRule, &spec, &mut out);
        assert_eq!(out, Validation::default());
        let spec =
            serde_json::json!({"host": "a", "subsets": [{"name": "a", "trafficPolicy": {"tunnel": {}}}]});
        check(Kind::DestinationRule, &spec, &mut out);
        assert_eq!(out.errors.len(), 1);
    }

    #[test]
    fn what_is_turned_off_is_seen() {
        let mut out = Validation::default();
        let spec = |on: bool| serde_json::json!({"tracing": [{"useRequestIdForTraceSampling": on}]});
        check(Kind::Telemetry, &spec(true), &mut out);
        assert_eq!(out, Validation::default());
        check(Kind::Telemetry, &spec(false), &mut out);
        assert_eq!(out.errors.len(), 1);
    }

    #[test]
    fn the_table_names_fields_once() {
        let table = table();
        let mut seen = std::collections::HashSet::new();
        for row in &table {
            assert!(seen.insert((row.kind, row.path.clone())), "{row:?} is there twice");
        }
        assert!(table.len() > 400, "{}", table.len());
    }
}
