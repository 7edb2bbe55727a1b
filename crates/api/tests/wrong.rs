//! Wrong resources: each with exactly what is said of it.

use api::{Kind, Reason};
use serde_json::{Value, json};

/// The errors of a spec, as people read them.
fn errors(kind: Kind, spec: &str) -> Vec<String> {
    let spec: Value = api::yaml::documents(spec).unwrap().remove(0);
    let info = kind.info();
    let object = json!({
        "apiVersion": info.api_version(),
        "kind": info.name,
        "metadata": {"name": "x", "namespace": "default"},
        "spec": spec,
    });
    api::validate(kind, &object).errors.iter().map(ToString::to_string).collect()
}

fn expect(kind: Kind, table: &[(&str, &str)]) {
    for (spec, wanted) in table {
        assert_eq!(errors(kind, spec), [*wanted], "{kind} {spec}");
    }
}

#[test]
fn virtual_services() {
    let http = |route: &str| format!("{{hosts: [reviews], http: [{route}]}}");
    let to = "route: [{destination: {host: reviews}}]";
    for (route, wanted) in [
        (
            "{route: [{destination: {host: reviews}, weigth: 5}]}".into(),
            "unknown field \"spec.http[0].route[0].weigth\"; did you mean \"weight\"?",
        ),
        (
            "{route: [{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: -1}]}".into(),
            "spec.http[0].route[1].weight: Invalid value: -1: spec.http[0].route[1].weight in body should be greater \
             than or equal to 0",
        ),
        (
            "{route: [{destination: {host: a}}, {destination: {host: b}, weight: 0}]}".into(),
            "spec.http[0].route: Invalid value: \"array\": must have a weight that is not 0; give every destination \
             its share, such as weight: 50",
        ),
        (
            "{route: [{destination: {subset: v1}}]}".into(),
            "spec.http[0].route[0].destination.host: Required value",
        ),
        (
            "{route: [{destination: {host: 'http://reviews'}}]}".into(),
            "spec.http[0].route[0].destination.host: Invalid value: \"http://reviews\": must be a host name; leave \
             the scheme out",
        ),
        (
            format!("{{timeout: 5, {to}}}"),
            "spec.http[0].timeout: Invalid value: \"integer\": spec.http[0].timeout in body must be of type string: \
             \"integer\"; put it in quotes",
        ),
        (
            format!("{{timeout: 5sec, {to}}}"),
            "spec.http[0].timeout: Invalid value: \"5sec\": must be a duration of at least 1ms, such as 1.5s, 500ms or 1h30m",
        ),
        (
            format!("{{timeout: 0s, {to}}}"),
            "spec.http[0].timeout: Invalid value: \"0s\": must be a duration of at least 1ms, such as 1.5s, 500ms or 1h30m",
        ),
        (
            format!("{{match: [{{uri: {{regex: 'a(b'}}}}], {to}}}"),
            "spec.http[0].match[0].uri.regex: Invalid value: \"a(b\": must be a regular expression in RE2's syntax at \
             character 2: unclosed group",
        ),
        (
            format!("{{match: [{{uri: {{exact: a, prefix: b}}}}], {to}}}"),
            "spec.http[0].match[0].uri: Invalid value: \"object\": only one of exact, prefix, regex may be set, not \
             exact and prefix; keep exact or prefix",
        ),
        (
            format!("{{match: {{uri: {{exact: a}}}}, {to}}}"),
            "spec.http[0].match: Invalid value: \"object\": spec.http[0].match in body must be of type array: \
             \"object\"; write a list: begin each entry with \"- \"",
        ),
        (
            format!("{{match: [{{headers: {{x-a: {{prefix: ''}}}}}}], {to}}}"),
            "spec.http[0].match[0].headers[x-a].prefix: Invalid value: \"\": must not be empty; take it out to ask \
             for presence",
        ),
        (
            format!("{{retries: {{attempts: 3, retryOn: '5xx,connect-failures'}}, {to}}}"),
            "spec.http[0].retries.retryOn: Unsupported value: \"connect-failures\": supported values: \"5xx\", \
             \"gateway-error\", \"reset\", \"reset-before-request\", \"connect-failure\", \"retriable-4xx\", \
             \"refused-stream\", \"retriable-status-codes\", \"retriable-headers\", \"envoy-ratelimited\", \
             \"http3-post-connect-failure\", \"cancelled\", \"deadline-exceeded\", \"internal\", \
             \"resource-exhausted\", \"unavailable\"; did you mean \"connect-failure\"?",
        ),
        (
            format!("{{retries: {{perTryTimeout: 1s}}, {to}}}"),
            "spec.http[0].retries.attempts: Required value: absent or 0 turns retries off; write attempts: 2, or take \
             the other fields out",
        ),
        (
            format!("{{fault: {{abort: {{httpStatus: 500, percentage: {{value: 101}}}}}}, {to}}}"),
            "spec.http[0].fault.abort.percentage.value: Invalid value: 101.0: must be a percentage, from 0.0001 to \
             100, or 0",
        ),
        (
            format!("{{redirect: {{uri: /a}}, {to}}}"),
            "spec.http[0].route: Invalid value: \"object\": must not be set beside redirect, which answers by itself",
        ),
        ("{name: nothing}".into(), "spec.http[0]: Required value: one of route, redirect and directResponse"),
        (
            "{delegate: {name: other}}".into(),
            "spec.http[0].delegate: Forbidden: delegate is not supported: delegation to another VirtualService is not \
             built yet; write the routes here",
        ),
        (
            format!("{{headers: {{request: {{set: {{x: '100%'}}}}}}, {to}}}"),
            "spec.http[0].headers.request.set[x]: Invalid value: \"100%\": a percent sign begins no operator; write %% for \
             a percent sign",
        ),
        (
            format!("{{headers: {{request: {{set: {{x: '%NOSUCH%'}}}}}}, {to}}}"),
            "spec.http[0].headers.request.set[x]: Invalid value: \"%NOSUCH%\": %NOSUCH% is no operator that this proxy \
             knows; write an operator such as \"%REQ(x-request-id)%\", or \"%%\" for a percent sign",
        ),
        (
            format!("{{headers: {{response: {{add: {{x: '%DOWNSTREAM_REMOTE_ADRESS%'}}}}}}, {to}}}"),
            "spec.http[0].headers.response.add[x]: Invalid value: \"%DOWNSTREAM_REMOTE_ADRESS%\": \
             %DOWNSTREAM_REMOTE_ADRESS% is no operator that this proxy knows; did you mean \
             \"%DOWNSTREAM_REMOTE_ADDRESS%\"?",
        ),
        (
            "{route: [{destination: {host: a}, headers: {request: {set: {x: '%REQ(y'}}}}]}".into(),
            "spec.http[0].route[0].headers.request.set[x]: Invalid value: \"%REQ(y\": %REQ: the parenthesis is not closed",
        ),
        (
            format!("{{match: [{{uri: {{regex: '/a{{1001}}'}}}}], {to}}}"),
            "spec.http[0].match[0].uri.regex: Invalid value: \"/a{1001}\": must be a regular expression in RE2's syntax: RE2 \
             repeats at most 1000 times, also within each other",
        ),
        (
            format!("{{rewrite: {{uriRegexRewrite: {{match: '^/(a)', rewrite: '/\\2'}}}}, {to}}}"),
            "spec.http[0].rewrite.uriRegexRewrite.rewrite: Invalid value: \"/\\\\2\": \\2 names a group that the \
             pattern does not have; write \"\\1\" for the first group of match",
        ),
        (
            format!("{{match: [{{queryParams: {{'': {{exact: a}}}}}}], {to}}}"),
            "spec.http[0].match[0].queryParams: Invalid value: \"\": must be a parameter's name, of at most 1024 bytes",
        ),
        (
            format!("{{headers: {{request: {{set: {{x: '%REQ_WITHOUT_QUERY(:path)%'}}}}}}, {to}}}"),
            "spec.http[0].headers.request.set[x]: Invalid value: \"%REQ_WITHOUT_QUERY(:path)%\": has \
             %REQ_WITHOUT_QUERY%, which works in access logs alone; write \"%PATH(NQ)%\" for the path without its query",
        ),
        (
            "{redirect: {uri: \"/a\\nb\"}}".into(),
            "spec.http[0].redirect.uri: Invalid value: \"/a\\nb\": must not contain control characters",
        ),
        (
            format!("{{corsPolicy: {{allowMethods: [GETT]}}, {to}}}"),
            "spec.http[0].corsPolicy.allowMethods[0]: Unsupported value: \"GETT\": supported values: \"GET\", \
             \"HEAD\", \"POST\", \"PUT\", \"PATCH\", \"DELETE\", \"CONNECT\", \"OPTIONS\", \"TRACE\", \"*\"; did you \
             mean \"GET\"?",
        ),
    ] {
        expect(Kind::VirtualService, &[(&http(&route), wanted)]);
    }
    expect(
        Kind::VirtualService,
        &[
            ("{hosts: [a]}", "spec: Required value: one of http, tls and tcp"),
            (
                "{hosts: ['*'], http: [{route: [{destination: {host: a}}]}]}",
                "spec.hosts[0]: Invalid value: \"*\": must not be \"*\" for sidecars; name hosts, or name gateways other \
             than \"mesh\"",
            ),
            (
                "{hosts: ['*.a.b', c.a.b], http: [{route: [{destination: {host: a}}]}]}",
                "spec.hosts[1]: Duplicate value: \"c.a.b\"",
            ),
            (
                "{hosts: [a.example], tls: [{match: [{sniHosts: [b.example]}], route: [{destination: {host: a}}]}]}",
                "spec.tls[0].match[0].sniHosts[0]: Invalid value: \"b.example\": must be covered by the hosts of this \
             resource: a.example; add \"b.example\" to spec.hosts",
            ),
            (
                "{hosts: [a], gateways: [gw.ns.svc.cluster.local], http: [{route: [{destination: {host: a}}]}]}",
                "spec.gateways[0]: Invalid value: \"gw.ns.svc.cluster.local\": must be \"mesh\" or [namespace/]name of a \
             Gateway; write \"ns/gw\"",
            ),
            (
                "{hosts: [a], exportTo: ['*', b], http: [{route: [{destination: {host: a}}]}]}",
                "spec.exportTo: Invalid value: [\"*\",\"b\"]: \"*\" must stand alone",
            ),
        ],
    );
}

#[test]
fn destination_rules() {
    expect(
        Kind::DestinationRule,
        &[
            ("{}", "spec.host: Required value"),
            (
                "{host: a, trafficPolicy: {loadBalancer: {simple: ROUNDROBIN}}}",
                "spec.trafficPolicy.loadBalancer.simple: Unsupported value: \"ROUNDROBIN\": supported values: \
             \"UNSPECIFIED\", \"LEAST_CONN\", \"RANDOM\", \"PASSTHROUGH\", \"ROUND_ROBIN\", \"LEAST_REQUEST\"; did \
             you mean \"ROUND_ROBIN\"?",
            ),
            (
                "{host: a, trafficPolicy: {connectionPool: {tcp: {max_connections: 1}}}}",
                "unknown field \"spec.trafficPolicy.connectionPool.tcp.max_connections\"; did you mean \"maxConnections\"?",
            ),
            (
                "{host: a, trafficPolicy: {connectionPool: {tcp: {maxConnections: '1'}}}}",
                "spec.trafficPolicy.connectionPool.tcp.maxConnections: Invalid value: \"string\": \
             spec.trafficPolicy.connectionPool.tcp.maxConnections in body must be of type integer: \"string\"; write \
             it without quotes",
            ),
            (
                "{host: a, trafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}}",
                "spec.trafficPolicy.outlierDetection.maxEjectionPercent: Invalid value: 101: must be a percentage, from 0 \
             to 100",
            ),
            (
                "{host: a, trafficPolicy: {outlierDetection: {interval: 0s}}}",
                "spec.trafficPolicy.outlierDetection.interval: Invalid value: \"0s\": must be a duration of at least 1ms, such as 1.5s, 500ms or 1h30m",
            ),
            (
                "{host: a, trafficPolicy: {outlierDetection: {consecutiveErrors: 5}}}",
                "spec.trafficPolicy.outlierDetection.consecutiveErrors: Forbidden: consecutiveErrors is not supported: \
             without effect, as in Istio; write consecutive5xxErrors or consecutiveGatewayErrors",
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x, useSourceIp: true}}}}",
                "spec.trafficPolicy.loadBalancer.consistentHash: Invalid value: \"object\": only one of httpHeaderName, \
             httpCookie, useSourceIp, httpQueryParameterName may be set, not httpHeaderName and useSourceIp; keep \
             httpHeaderName or useSourceIp",
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {ringHash: {minimumRingSize: 5}}}}}",
                "spec.trafficPolicy.loadBalancer.consistentHash: Required value: one of httpHeaderName, httpCookie, \
             useSourceIp and httpQueryParameterName",
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 10}}}}}",
                "spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize: Invalid value: 10: must be a prime below \
             5000011; 65537 is a good one",
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: r1/*, to: {'r1/*': 50, \
             'r2/*': 40}}]}}}}",
                "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to: Invalid value: 90: must add up to 100",
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {simple: RANDOM, warmup: {duration: 5s}}}}",
                "spec.trafficPolicy.loadBalancer.warmup: Forbidden: acts on ROUND_ROBIN and LEAST_REQUEST only; write \
             simple: ROUND_ROBIN, or take it out",
            ),
            (
                "{host: a, subsets: [{name: v1, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH, warmupDurationSecs: \
             5s}}}]}",
                "spec.subsets[0].trafficPolicy.loadBalancer.warmupDurationSecs: Forbidden: acts on ROUND_ROBIN and \
             LEAST_REQUEST only; write simple: ROUND_ROBIN, or take it out",
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}, warmup: {duration: 5s}}}}",
                "spec.trafficPolicy.loadBalancer.warmup: Forbidden: acts on ROUND_ROBIN and LEAST_REQUEST only; write \
             simple: ROUND_ROBIN, or take it out",
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {warmup: {duration: 5s, aggression: 0}}}}",
                "spec.trafficPolicy.loadBalancer.warmup.aggression: Invalid value: 0.0: must be greater than 0; 1 is \
             linear",
            ),
            (
                "{host: a, trafficPolicy: {retryBudget: {budgetInterval: 5s}}}",
                "spec.trafficPolicy.retryBudget.budgetInterval: Forbidden: budgetInterval is not supported: retries \
             are measured against the requests of the moment; take it out",
            ),
            ("{host: a, subsets: [{name: v1}, {name: v1}]}", "spec.subsets[1].name: Duplicate value: \"v1\""),
            (
                "{host: a, subsets: [{name: V_1}]}",
                "spec.subsets[0].name: Invalid value: \"V_1\": must be a subset's name: lower-case letters, digits and \
             '-', at most 63, no '-' at the ends",
            ),
            ("{host: a, trafficPolicy: {}}", "spec.trafficPolicy: Required value: at least one field"),
            (
                "{host: a, trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: /c}}}",
                "spec.trafficPolicy.tls.privateKey: Required value: or credentialName, for MUTUAL",
            ),
        ],
    );
}

#[test]
fn gateways() {
    let server = |rest: &str| format!("{{servers: [{{hosts: [a], {rest}}}]}}");
    for (rest, wanted) in [
        (
            "port: {number: 443, name: x, protocol: HTTPS}",
            "spec.servers[0].tls: Required value: HTTPS and TLS need TLS settings; such as {mode: SIMPLE, \
             credentialName: my-certificate}",
        ),
        (
            "port: {number: 80, name: x, protocol: HTTP}, tls: {mode: SIMPLE, credentialName: c}",
            "spec.servers[0].tls: Invalid value: \"object\": must have nothing but httpsRedirect for HTTP; write \
             protocol: HTTPS to serve TLS",
        ),
        (
            "port: {number: 80, name: x, protocol: TCP}, tls: {mode: PASSTHROUGH}",
            "spec.servers[0].tls: Invalid value: \"object\": must not be set for TCP; write protocol: TLS to serve TCP \
             inside TLS",
        ),
        (
            "port: {number: 80, name: x, protocol: HTPT}",
            "spec.servers[0].port.protocol: Unsupported value: \"HTPT\": supported values: \"HTTP\", \"HTTPS\", \
             \"HTTP2\", \"GRPC\", \"GRPC-WEB\", \"TCP\", \"TLS\", \"MONGO\", \"MYSQL\", \"REDIS\"",
        ),
        (
            "port: {number: 70000, name: x, protocol: HTTP}",
            "spec.servers[0].port.number: Invalid value: 70000: must be a port, from 1 to 65535",
        ),
        (
            "port: {number: 443, name: x, protocol: HTTPS}, tls: {mode: ISTIO_MUTUAL, credentialName: c}",
            "spec.servers[0].tls.credentialName: Invalid value: \"c\": must not be set for ISTIO_MUTUAL, which uses \
             the mesh's certificates",
        ),
        (
            "port: {number: 443, name: x, protocol: HTTPS}, tls: {mode: SIMPLE, credentialName: c, \
             minProtocolVersion: TLSV1_0}",
            "spec.servers[0].tls.minProtocolVersion: Forbidden: minProtocolVersion TLSV1_0 is not supported: TLS 1.0 \
             and 1.1 are not spoken; write TLSV1_2",
        ),
        (
            "port: {number: 80, name: x, protocol: HTTP, targetPort: 8080}",
            "spec.servers[0].port.targetPort: Forbidden: targetPort is not supported: deprecated; the gateway's \
             Service says which port it listens on",
        ),
    ] {
        expect(Kind::Gateway, &[(&server(rest), wanted)]);
    }
    expect(
        Kind::Gateway,
        &[
            ("{}", "spec.servers: Required value: at least one server"),
            (
                "{servers: [{hosts: [a], port: {number: 1, name: x, protocol: HTTP}}, {hosts: [b], port: {number: 2, name: \
             x, protocol: HTTP}}]}",
                "spec.servers[1].port.name: Duplicate value: \"x\"",
            ),
        ],
    );
}

#[test]
fn service_entries_and_workloads() {
    expect(
        Kind::ServiceEntry,
        &[
            ("{ports: []}", "spec.hosts: Required value"),
            ("{hosts: []}", "spec.hosts: Invalid value: 0: spec.hosts in body should have at least 1 items"),
            (
                "{hosts: ['*']}",
                "spec.hosts[0]: Invalid value: \"*\": must not be \"*\"; such as \"*.example.com\"",
            ),
            (
                "{hosts: [a.b], ports: [{number: 80, name: http}, {number: 81, name: http}]}",
                "spec.ports[1]: Duplicate value: {\"name\":\"http\"}",
            ),
            (
                "{hosts: [a.b], ports: [{number: 80, name: http}, {number: 80, name: http2}]}",
                "spec.ports[1].number: Duplicate value: 80",
            ),
            (
                "{hosts: [a.b], endpoints: [{address: 1.2.3.4}]}",
                "spec.endpoints: Invalid value: \"array\": must not be set for resolution: NONE; write resolution: STATIC \
             for addresses, DNS for host names",
            ),
            (
                "{hosts: [a.b], resolution: STATIC, endpoints: [{address: c.d}]}",
                "spec.endpoints[0].address: Invalid value: \"c.d\": must be an IP address; write resolution: DNS for host \
             names",
            ),
            (
                "{hosts: ['*.b'], resolution: DNS}",
                "spec.hosts[0]: Invalid value: \"*.b\": must be a full name, to be looked up in DNS; name endpoints, or \
             write resolution: NONE",
            ),
            (
                "{hosts: [a.b, c.d], resolution: DNS, ports: [{number: 1, name: tcp, protocol: TCP}]}",
                "spec.ports[0].protocol: Invalid value: \"TCP\": must be an HTTP or TLS protocol where there are several \
             hosts; write one ServiceEntry per host",
            ),
            (
                "{hosts: [a.b], resolution: STATIC, endpoints: [], workloadSelector: {labels: {a: b}}}",
                "spec: Invalid value: \"object\": only one of workloadSelector, endpoints may be set, not \
             workloadSelector and endpoints; keep workloadSelector or endpoints",
            ),
            (
                "{hosts: [a.b], resolution: DYNAMIC_DNS}",
                "spec.resolution: Forbidden: resolution DYNAMIC_DNS is not supported: resolution per request is not built \
             yet; write DNS and name the hosts",
            ),
        ],
    );
    expect(
        Kind::WorkloadEntry,
        &[
            ("{labels: {a: b}}", "spec.address: Required value"),
            (
                "{address: 10.0.0.1, ports: {http: 0}}",
                "spec.ports[http]: Invalid value: 0: must be a port, from 1 to 65535",
            ),
            (
                "{address: 10.0.0.1, labels: {'a b': c}}",
                "spec.labels[a b]: Invalid value: \"a b\": must be a label's key",
            ),
        ],
    );
    expect(
        Kind::WorkloadGroup,
        &[
            ("{metadata: {}}", "spec.template: Required value"),
            (
                "{template: {}, probe: {exec: {command: [x]}}}",
                "spec.probe: Forbidden: probe is not supported: readiness is told by `mizzen run --ready`; probes of a \
             group are not built yet",
            ),
        ],
    );
}

#[test]
fn sidecars() {
    expect(
        Kind::Sidecar,
        &[
            (
                "{}",
                "spec: Required value: one of ingress, egress, outboundTrafficPolicy and inboundConnectionPool",
            ),
            (
                "{ingress: [{port: {number: 9080}, bind: 10.0.0.1}]}",
                "spec.ingress[0].bind: Forbidden: bind is not supported: calls are captured on every address of the \
                 workload; take it out, or write defaultEndpoint",
            ),
            (
                "{egress: [{port: {number: 9080}, bind: 127.0.0.1, hosts: ['./*']}]}",
                "spec.egress[0].bind: Invalid value: \"127.0.0.1\": must be no loopback address: calls to it are not \
                 captured",
            ),
            (
                "{egress: [{bind: x, hosts: ['./*']}]}",
                "spec.egress[0].bind: Invalid value: \"x\": must be an IP address",
            ),
            (
                "{egress: [{port: {number: 9080, protocol: http_proxy}, hosts: ['./*']}]}",
                "spec.egress[0].port.protocol: Forbidden: protocol HTTP_PROXY is not supported: an HTTP forward proxy is \
                 not built yet; write HTTP",
            ),
            (
                "{egress: [{hosts: [reviews]}]}",
                "spec.egress[0].hosts[0]: Invalid value: \"reviews\": must be namespace/host; write \"./reviews\" for \
             this namespace, \"*/reviews\" for any",
            ),
            (
                "{egress: [{hosts: ['./*']}, {hosts: ['./*']}]}",
                "spec.egress[0].port: Required value: only the last listener may be without",
            ),
            (
                "{ingress: [{port: {number: 80, protocol: HTTP, name: http}, defaultEndpoint: '10.0.0.1:80'}]}",
                "spec.ingress[0].defaultEndpoint: Invalid value: \"10.0.0.1:80\": must be 127.0.0.1:PORT, 0.0.0.0:PORT, \
             [::1]:PORT, [::]:PORT or unix:///path",
            ),
            (
                "{outboundTrafficPolicy: {mode: ALLOWANY}}",
                "spec.outboundTrafficPolicy.mode: Unsupported value: \"ALLOWANY\": supported values: \"REGISTRY_ONLY\", \
             \"ALLOW_ANY\"; did you mean \"ALLOW_ANY\"?",
            ),
        ],
    );
}

#[test]
fn policies() {
    expect(
        Kind::AuthorizationPolicy,
        &[
            (
                "{rules: [{from: [{source: {principals: ['spiffe://cluster.local/ns/default/sa/a']}}]}]}",
                "spec.rules[0].from[0].source.principals[0]: Invalid value: \"spiffe://cluster.local/ns/default/sa/a\": \
             must not begin with \"spiffe://\", or it never matches; write \"cluster.local/ns/default/sa/a\"",
            ),
            (
                "{action: CUSTOM, rules: [{}]}",
                "spec.provider.name: Required value: who decides; a provider of MeshConfig: envoyExtAuthzHttp or \
             envoyExtAuthzGrpc",
            ),
            (
                "{action: CUSTOM, provider: {}, rules: [{}]}",
                "spec.provider.name: Required value: who decides",
            ),
            (
                "{action: DENY, provider: {name: a}, rules: [{}]}",
                "spec.provider: Forbidden: only CUSTOM asks anybody; write action: CUSTOM",
            ),
            (
                "{rules: [{from: [{source: {requestPrincipals: ['a*b']}}]}]}",
                "spec.rules[0].from[0].source.requestPrincipals[0]: Invalid value: \"a*b\": must have \"*\" at the \
             beginning or at the end only, and once",
            ),
            (
                "{rules: [{from: [{source: {notRequestPrincipals: ['']}}]}]}",
                "spec.rules[0].from[0].source.notRequestPrincipals[0]: Invalid value: \"\": must not be empty",
            ),
            (
                "{rules: [{when: [{key: 'request.auth.claims', values: [a]}]}]}",
                "spec.rules[0].when[0].key: Invalid value: \"request.auth.claims\": must be request.auth.claims[NAME], \
             or request.auth.claims[NAME][NAME] for one inside",
            ),
            (
                "{rules: [{when: [{key: source.ipp, values: [10.0.0.1]}]}]}",
                "spec.rules[0].when[0].key: Unsupported value: \"source.ipp\": supported values: \"request.headers[NAME]\", \
             \"source.ip\", \"remote.ip\", \"source.namespace\", \"source.serviceAccount\", \"source.trustDomain\", \
             \"source.principal\", \"destination.ip\", \"destination.port\", \"connection.sni\", \
             \"request.auth.principal\", \"request.auth.audiences\", \"request.auth.presenter\", \
             \"request.auth.claims[NAME]\"; did you mean \"source.ip\"?",
            ),
            (
                "{rules: [{to: [{operation: {paths: ['/a/{name}']}}]}]}",
                "spec.rules[0].to[0].operation.paths[0]: Invalid value: \"/a/{name}\": must have no braces but those of \
             \"{*}\" and \"{**}\"; such as \"/reviews/{*}/votes\" or \"/static/{**}\"",
            ),
            (
                "{rules: [{to: [{operation: {paths: ['a/{*}']}}]}]}",
                "spec.rules[0].to[0].operation.paths[0]: Invalid value: \"a/{*}\": must begin with a slash; such as \
             \"/reviews/{*}/votes\" or \"/static/{**}\"",
            ),
            (
                "{rules: [{to: [{operation: {paths: ['/a*b']}}]}]}",
                "spec.rules[0].to[0].operation.paths[0]: Invalid value: \"/a*b\": must have \"*\" at the beginning or at \
             the end only, and once",
            ),
            (
                "{rules: [{to: [{operation: {ports: [http]}}]}]}",
                "spec.rules[0].to[0].operation.ports[0]: Invalid value: \"http\": must be a port, from 1 to 65535",
            ),
            ("{rules: [{from: [{}]}]}", "spec.rules[0].from[0].source: Required value: at least one field"),
            (
                "{action: DENY}",
                "spec.rules: Required value: DENY without rules does nothing; write rules: [{}] to match every request",
            ),
            (
                "{action: deny, rules: [{}]}",
                "spec.action: Unsupported value: \"deny\": supported values: \"ALLOW\", \"DENY\", \"AUDIT\", \"CUSTOM\"; \
             did you mean \"DENY\"?",
            ),
        ],
    );
    expect(
        Kind::PeerAuthentication,
        &[
            (
                "{mtls: {mode: STRICTT}}",
                "spec.mtls.mode: Unsupported value: \"STRICTT\": supported values: \"UNSET\", \"DISABLE\", \"PERMISSIVE\", \
             \"STRICT\"; did you mean \"STRICT\"?",
            ),
            (
                "{portLevelMtls: {80: {mode: STRICT}}}",
                "spec.selector: Required value: portLevelMtls needs workloads to be named; write selector: {matchLabels: \
             {app: …}}",
            ),
        ],
    );
    expect(
        Kind::RequestAuthentication,
        &[
            (
                "{jwtRules: [{issuer: a, jwksUri: 'ftp://a.example'}]}",
                "spec.jwtRules[0].jwksUri: Invalid value: \"ftp://a.example\": must begin with \"https://\" or \"http://\"",
            ),
            (
                "{jwtRules: [{issuer: a, jwksUri: 'https://me:secret@a.example/keys'}]}",
                "spec.jwtRules[0].jwksUri: Invalid value: \"https://me:secret@a.example/keys\": must not hold credentials",
            ),
            (
                "{jwtRules: [{issuer: a, jwksUri: 'https://a.example:0/keys'}]}",
                "spec.jwtRules[0].jwksUri: Invalid value: \"https://a.example:0/keys\": must have a port from 1 to 65535",
            ),
            (
                "{jwtRules: [{issuer: a, jwksUri: 'http:///keys'}]}",
                "spec.jwtRules[0].jwksUri: Invalid value: \"http:///keys\": must name a host",
            ),
            (
                "{jwtRules: [{issuer: a, jwksUri: 'http://[::ffff:169.254.169.254]/keys'}]}",
                "spec.jwtRules[0].jwksUri: Invalid value: \"http://[::ffff:169.254.169.254]/keys\": must not be a \
             link-local address or a cloud's metadata service",
            ),
            (
                "{jwtRules: [{issuer: a, jwks: '{'}]}",
                "spec.jwtRules[0].jwks: Invalid value: \"string\": is no JSON; write a JSON Web Key Set: {\"keys\": \
             [{\"kty\": \"RSA\", …}]}",
            ),
            (
                "{jwtRules: [{issuer: a, jwks: '{\"kty\": \"RSA\"}'}]}",
                "spec.jwtRules[0].jwks: Invalid value: \"string\": has no field \"keys\"; write a JSON Web Key Set: \
             {\"keys\": [{\"kty\": \"RSA\", …}]}",
            ),
            (
                "{jwtRules: [{issuer: a, jwks: '{\"keys\": []}', jwksUri: 'https://a.example'}]}",
                "spec.jwtRules[0]: Invalid value: \"object\": only one of jwksUri, jwks_uri, jwks may be set, not jwksUri and jwks; keep jwksUri or jwks",
            ),
            ("{jwtRules: [{audiences: [a]}]}", "spec.jwtRules[0].issuer: Required value"),
            (
                "{jwtRules: [{issuer: a, audiences: ['']}]}",
                "spec.jwtRules[0].audiences[0]: Invalid value: \"\": must not be empty",
            ),
            (
                "{jwtRules: [{issuer: a, fromHeaders: [{name: 'a b'}]}]}",
                "spec.jwtRules[0].fromHeaders[0].name: Invalid value: \"a b\": must be a header's name",
            ),
            (
                "{jwtRules: [{issuer: a, fromCookies: ['']}]}",
                "spec.jwtRules[0].fromCookies[0]: Invalid value: \"\": must not be empty",
            ),
            (
                "{jwtRules: [{issuer: a, outputPayloadToHeader: ':path'}]}",
                "spec.jwtRules[0].outputPayloadToHeader: Invalid value: \":path\": must be a header's name",
            ),
            (
                "{jwtRules: [{issuer: a, outputClaimToHeaders: [{header: ':path', claim: a}]}]}",
                "spec.jwtRules[0].outputClaimToHeaders[0].header: Invalid value: \":path\": spec.jwtRules[0].outputClaimToHeaders[0].header in body should match '^[-_A-Za-z0-9]+$'",
            ),
            (
                "{jwtRules: [{issuer: a, timeout: 0s}]}",
                "spec.jwtRules[0].timeout: Invalid value: \"0s\": must be a duration of at least 1ms, such as 1.5s, 500ms or 1h30m",
            ),
            (
                "{jwtRules: [{issuer: a, spaceDelimitedClaims: ['']}]}",
                "spec.jwtRules[0].spaceDelimitedClaims[0]: Invalid value: \"\": must not be empty",
            ),
            (
                "{jwtRules: [{issuer: a, presence: REQUIRED}]}",
                "spec.jwtRules[0].presence: Forbidden: presence REQUIRED is not supported: not built yet, nor in Istio; \
             write an AuthorizationPolicy that asks for requestPrincipals",
            ),
            (
                "{targetRefs: [{group: '', kind: Service, name: a}]}",
                "spec.targetRefs: Forbidden: targetRefs is not supported: attaching to Gateway API resources is not \
             built yet; write selector",
            ),
        ],
    );
    expect(
        Kind::Telemetry,
        &[
            (
                "{metrics: [{overrides: [{disabled: true}]}]}",
                "spec.metrics[0].overrides: Forbidden: overrides is not supported: changes to single metrics are not \
             built yet",
            ),
            (
                "{tracing: [{randomSamplingPercentage: 101}]}",
                "spec.tracing[0].randomSamplingPercentage: Invalid value: 101: spec.tracing[0].randomSamplingPercentage in \
             body should be less than or equal to 100",
            ),
            (
                "{accessLogging: [{filter: {expression: ' '}}]}",
                "spec.accessLogging[0].filter.expression: Required value: a CEL expression; such as \"response.code >= \
             400\"",
            ),
            (
                "{accessLogging: [{}, {filter: {expression: 'response.cod >= 400'}}]}",
                "spec.accessLogging[1].filter.expression: Invalid value: \"response.cod >= 400\": must be a CEL \
             expression over Envoy's attributes, without macros and arithmetic: response.cod is no attribute that this \
             proxy knows; such as \"response.code >= 400\"",
            ),
            (
                "{accessLogging: [{filter: {expression: \"request.headers.exists(h, h == 'a')\"}}]}",
                "spec.accessLogging[0].filter.expression: Invalid value: \"request.headers.exists(h, h == 'a')\": must \
             be a CEL expression over Envoy's attributes, without macros and arithmetic: h is no attribute that this \
             proxy knows; such as \"response.code >= 400\"",
            ),
            (
                "{tracing: [{customTags: {a: {formatter: {value: '%REQ(X-A%'}}}}]}",
                "spec.tracing[0].customTags[a].formatter.value: Invalid value: \"%REQ(X-A%\": %REQ: the parenthesis is \
             not closed",
            ),
            (
                "{tracing: [{customTags: {a: {header: {name: 'x y'}}}}]}",
                "spec.tracing[0].customTags[a].header.name: Invalid value: \"x y\": must be a header's name",
            ),
            (
                "{tracing: [{customTags: {a: {}}}]}",
                "spec.tracing[0].customTags[a]: Required value: one of literal, environment, header and formatter",
            ),
        ],
    );
}

#[test]
fn a_policy_that_is_only_tried_out_is_refused() {
    let policy = |value: &str| {
        json!({
            "metadata": {"name": "x", "annotations": {"istio.io/dry-run": value}}, "spec": {"rules": [{}]},
        })
    };
    let found = api::validate(Kind::AuthorizationPolicy, &policy("true")).errors;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].path, "metadata.annotations[istio.io/dry-run]");
    assert!(api::validate(Kind::AuthorizationPolicy, &policy("false")).is_ok());
}

#[test]
fn all_errors_are_reported_at_once() {
    let spec = "{hosts: [a], http: [{timeout: x, route: [{destination: {host: a}, wieght: 1}], delegate: {name: b}}]}";
    let found = errors(Kind::VirtualService, spec);
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn unknown_kinds_and_versions_are_named() {
    let of = |api_version: &str, kind: &str| {
        let error = api::kind_of(&json!({"apiVersion": api_version, "kind": kind})).unwrap_err();
        (error.reason, error.to_string())
    };
    let (reason, text) = of("networking.istio.io/v2", "VirtualService");
    assert_eq!(reason, Reason::NotSupported);
    assert!(text.starts_with("apiVersion: Unsupported value: \"networking.istio.io/v2\""), "{text}");
    let (_, text) = of("networking.istio.io/v1alpha3", "EnvoyFilter");
    assert!(text.ends_with("use a typed resource"), "{text}");
    let (_, text) = of("networking.istio.io/v1", "VirtualServices");
    assert!(text.ends_with("did you mean \"VirtualService\"?"), "{text}");
}

#[test]
fn what_is_odd_but_harmless_is_warned_about() {
    let warnings = |kind: Kind, spec: &str| {
        let spec: Value = api::yaml::documents(spec).unwrap().remove(0);
        let found = api::validate(kind, &json!({"metadata": {"name": "x"}, "spec": spec}));
        assert_eq!(found.errors, []);
        found.warnings
    };
    assert_eq!(
        warnings(
            Kind::VirtualService,
            "{hosts: [a], http: [{route: [{destination: {host: a}}]}, {route: [{destination: {host: b}}]}]}"
        ),
        ["spec.http[1]: is never used: spec.http[0] has no match and takes everything"]
    );
    assert_eq!(
        warnings(Kind::DestinationRule, "{host: a, trafficPolicy: {loadBalancer: {simple: LEAST_CONN}}}"),
        ["spec.trafficPolicy.loadBalancer.simple: deprecated; write LEAST_REQUEST, which it means"]
    );
    assert_eq!(
        warnings(Kind::AuthorizationPolicy, "{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}"),
        ["spec.rules[0]: asks about HTTP alone; it denies everything on TCP ports: name ports as well"]
    );
}

/// What is accepted, and perhaps not meant.
#[test]
fn tokens_that_are_never_taken_are_warned_of() {
    for (kind, spec, expected) in [
        (Kind::RequestAuthentication, "{jwtRules: [{issuer: 'https://a.example'}]}", &[][..]),
        (
            Kind::RequestAuthentication,
            "{jwtRules: [{issuer: me@a.example}]}",
            &[
                "spec.jwtRules[0].issuer: no keys can be found by the issuer, which must begin with \"https://\" or \
             \"http://\": every token is refused; write jwksUri or jwks",
            ],
        ),
        (
            Kind::RequestAuthentication,
            "{jwtRules: [{issuer: a, jwks: '{\"keys\": []}'}]}",
            &["spec.jwtRules[0].jwks: has no key that can be used: every token of this issuer is refused"],
        ),
        (
            Kind::RequestAuthentication,
            "{jwtRules: [{issuer: a, jwks: '{\"keys\": [{\"kty\": \"oct\", \"k\": \"YQ\"}]}'}]}",
            &[
                "spec.jwtRules[0].jwks: holds a private key, and is shown to whoever reads the resource; public ones \
             are enough",
            ],
        ),
        (
            Kind::AuthorizationPolicy,
            "{rules: [{from: [{source: {requestPrincipals: [me]}}]}]}",
            &[
                "spec.rules[0].from[0].source.requestPrincipals[0]: \"me\" never matches: write issuer/subject, or me/* \
             for any subject",
            ],
        ),
        (
            Kind::AuthorizationPolicy,
            "{action: CUSTOM, provider: {name: a}, rules: [{when: [{key: request.auth.audiences, values: [c]}]}]}",
            &[
                "spec.rules[0]: asks about tokens, which are verified after CUSTOM: nobody has one here, as in Istio",
            ],
        ),
        (
            Kind::AuthorizationPolicy,
            "{rules: [{when: [{key: 'request.auth.claims[a][b]', values: [c]}]}]}",
            &[],
        ),
        (
            Kind::VirtualService,
            "{hosts: [a], gateways: [g], http: [{match: [{headers: {'@request.auth.claims.a.b': {exact: c}}}], \
             route: [{destination: {host: a}}]}]}",
            &[],
        ),
    ] {
        let spec: Value = serde_yaml_ng::from_str(spec).unwrap();
        let found = api::validate(kind, &json!({"metadata": {"name": "x"}, "spec": spec}));
        assert_eq!(found.errors, [], "{spec}");
        assert_eq!(found.warnings, expected, "{spec}");
    }
}
