use std::io::Write;

use clap::Parser;

use super::*;

const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {clusterIP: 10.96.0.7, selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: productpage-v1}
spec: {address: 10.44.0.2, labels: {app: productpage, security.istio.io/tlsMode: istio}, serviceAccount: productpage}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: reviews-v1}
spec:
  address: 10.44.0.3
  labels: {app: reviews, version: v1, security.istio.io/tlsMode: istio}
  serviceAccount: reviews
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: reviews-v2}
spec:
  address: 10.44.0.4
  labels: {app: reviews, version: v2, security.istio.io/tlsMode: istio}
  serviceAccount: reviews
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - route: [{destination: {host: reviews, subset: v1}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-get}
spec:
  selector: {matchLabels: {app: reviews}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/productpage]}}]
    to: [{operation: {methods: [GET]}}]
";

fn explained(arguments: &[&str]) -> Way {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ExplainArgs,
    }
    let mut file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    file.write_all(MESH.as_bytes()).unwrap();
    let mut seen = Seen::nothing();
    seen.add(&[file.path().to_path_buf()], "default").unwrap();
    assert_eq!(seen.problems, []);
    let line = Line::parse_from(["explain", "--from", "productpage-v1"].iter().chain(arguments));
    way(&line.args, "default", &seen.snapshot()).unwrap()
}

#[test]
fn a_header_leads_to_its_subset_and_the_policy_lets_it_in() {
    let way = explained(&["-H", "end-user: jason", "http://reviews:9080/reviews/1"]);
    let shown = text(&way, false);
    assert_eq!(way.address, "10.96.0.7:9080");
    let cluster = Some("outbound|9080|v2|reviews.default.svc.cluster.local");
    assert_eq!(way.outbound.cluster.as_deref(), cluster, "{shown}");
    assert_eq!(way.to.as_deref(), Some("default/reviews-v2"), "{shown}");
    let inbound = way.inbound.as_ref().unwrap();
    assert_eq!(inbound.cluster.as_deref(), Some("inbound|9080||"), "{shown}");
    assert!(inbound.policies.iter().any(|p| p.contains("only-get") && p.contains("allowed")), "{shown}");
}

#[test]
fn what_no_rule_allows_is_denied_at_the_destination() {
    let way = explained(&["-X", "POST", "http://reviews:9080/"]);
    let shown = text(&way, false);
    let cluster = Some("outbound|9080|v1|reviews.default.svc.cluster.local");
    assert_eq!(way.outbound.cluster.as_deref(), cluster, "{shown}");
    let inbound = way.inbound.as_ref().unwrap();
    assert!(inbound.outcome.contains("403"), "{shown}");
    assert!(inbound.steps.iter().any(|why| why.reason.contains("no ALLOW policy matches")), "{shown}");
}

#[test]
fn what_is_outside_passes_through() {
    let way = explained(&["https://example.com/"]);
    let shown = text(&way, false);
    assert_eq!(way.outbound.cluster.as_deref(), Some("PassthroughCluster"), "{shown}");
    assert!(way.inbound.is_none());
}
