//! kubectl, and a real API server.

mod authority;
mod dangling;
mod pods;
mod verbs;
mod wrong;

use e2e::stage::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("kubectl_does_everything_that_people_use", verbs::all),
    ("wrong_yaml_is_refused_and_changes_nothing", wrong::on_the_embedded_api),
    ("what_dangles_is_stored_with_a_warning_and_shown", dangling::is_shown),
];

/// Those that need a real API server, beside all that plays on either.
pub(crate) const ON_A_REAL_API_SERVER: &[Scenario] = &[
    ("wrong_yaml_is_refused_and_changes_nothing", wrong::on_a_cluster),
    ("what_dangles_is_stored_with_a_warning_and_shown", dangling::is_shown),
    ("pods_and_slices_become_endpoints_and_leave", pods::come_and_go),
    ("the_authority_keeps_its_root", authority::is_kept),
];

/// What scenarios apply: a Service, its routes, its subsets, and who may call it.
const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default, labels: {istio.io/rev: default}}
spec:
  hosts: [reviews]
  http:
  - timeout: 10s
    match: [{uri: {regex: '/reviews/[0-9]+'}}]
    route:
    - {destination: {host: reviews, subset: v2}, weight: 50}
    - {destination: {host: reviews, subset: v3}, weight: 50}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default, labels: {istio.io/rev: default}}
spec:
  host: reviews
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
  subsets:
  - {name: v2, labels: {version: v2}}
  - {name: v3, labels: {version: v3}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews, namespace: default, labels: {istio.io/rev: default}}
spec:
  selector: {matchLabels: {app: reviews}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/productpage]}}]}]
";
