//! What a real istiod made of the same services and resources: names, chains, filters, domains, routes, priorities.
//!
//! `bookinfo/istiod.json` holds the facts that are compared, drawn from a record of its configuration. Left out on both
//! sides: statistics (on by default here) and external authorization (not built).

mod common;

use base::Locality;
use common::{Mesh, RESOURCES, facets, ingress};
use proto::ResourceType;
use serde_json::{Value, json};
use translate::{Facets, Scope};

const LEFT_OUT: [&str; 2] = ["istio.stats", "envoy.filters.http.ext_authz"];

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn or<'a>(value: &'a Value, default: &'a str) -> &'a str {
    value.as_str().unwrap_or(default)
}

fn cluster(of: &Value) -> Value {
    let security = match (of.get("transportSocketMatches"), of.get("transportSocket")) {
        (Some(_), _) => "automatic",
        (None, Some(_)) => "tls",
        (None, None) => "plaintext",
    };
    json!([or(&of["type"], "STATIC"), or(&of["lbPolicy"], "ROUND_ROBIN"), security])
}

fn filter(of: &Value) -> Value {
    let config = &of["typedConfig"];
    let target = [&config["cluster"], &config["rds"]["routeConfigName"], &config["routeConfig"]["name"]];
    let target = target.iter().find_map(|name| name.as_str()).unwrap_or_default();
    let http = list(&config["httpFilters"]).iter().map(|filter| &filter["name"]);
    let http: Vec<_> = http.filter(|name| !LEFT_OUT.contains(&or(name, ""))).collect();
    json!([of["name"], target, http])
}

fn chain(of: &Value) -> Value {
    let filters = list(&of["filters"]).iter().filter(|filter| !LEFT_OUT.contains(&or(&filter["name"], "")));
    let condition = of.get("filterChainMatch").cloned().unwrap_or_else(|| json!({}));
    json!([condition, filters.map(filter).collect::<Vec<_>>(), of.get("transportSocket").is_some()])
}

fn listener(of: &Value) -> Value {
    let chains: Vec<_> = list(&of["filterChains"]).iter().map(chain).collect();
    let default = of.get("defaultFilterChain").map(chain);
    let filters: Vec<_> = list(&of["listenerFilters"]).iter().map(|filter| &filter["name"]).collect();
    json!([chains, default, filters])
}

fn action(of: &Value) -> Value {
    let Some(route) = of.get("route") else {
        return if of.get("redirect").is_some() { "redirect".into() } else { "direct".into() };
    };
    match route.get("cluster") {
        Some(cluster) => cluster.clone(),
        None => list(&route["weightedClusters"]["clusters"])
            .iter()
            .map(|share| json!([share["name"], share["weight"]]))
            .collect(),
    }
}

fn route(of: &Value) -> Value {
    let one = |route: &Value| json!([or(&route["name"], ""), route["match"], action(route)]);
    list(&of["virtualHosts"])
        .iter()
        .map(|host| {
            let domains = list(&host["domains"]).iter().filter(|domain| !or(domain, "").starts_with("10."));
            let routes = list(&host["routes"]).iter().map(one);
            json!([host["name"], domains.collect::<Vec<_>>(), routes.collect::<Vec<_>>()])
        })
        .collect()
}

fn endpoints(of: &Value) -> Value {
    list(&of["endpoints"])
        .iter()
        .map(|group| {
            let addresses = list(&group["lbEndpoints"])
                .iter()
                .map(|endpoint| &endpoint["endpoint"]["address"]["socketAddress"]["address"]);
            json!([
                or(&group["locality"]["region"], ""),
                group["priority"].as_u64().unwrap_or(0),
                group["loadBalancingWeight"],
                addresses.collect::<Vec<_>>(),
            ])
        })
        .collect()
}

fn compare(node: &str, what: &str, ours: &Value, istiod: &Value) {
    let names = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
    let (mut mine, mut theirs) = (names(ours).unwrap_or_default(), names(istiod).unwrap_or_default());
    mine.sort();
    theirs.sort();
    assert_eq!(mine, theirs, "{node}: names of {what}");
    for name in mine {
        assert_eq!(ours[&name], istiod[&name], "{node}: {what} {name}");
    }
}

#[test]
fn bookinfo_is_translated_as_istiod_does() {
    let istiod: Value = serde_json::from_str(include_str!("bookinfo/istiod.json")).unwrap();
    let mesh = Mesh::bookinfo(RESOURCES);
    let at = |app, place| Scope::new(Facets { locality: Locality::parse(place), ..facets(app, "v1") });
    let scopes = [
        ("reviews-v1", at("reviews", "r1/z1")),
        ("ratings-v1", at("ratings", "r1/z1")),
        ("mysqldb-v1", at("mysqldb", "r1/z1")),
        ("productpage-v1", at("productpage", "r2/z2")),
        ("details-v1", at("details", "r2/z2")),
        ("istio-ingressgateway-0", ingress()),
    ];
    for (node, scope) in &scopes {
        let all = |of, summary: fn(&Value) -> Value| -> Value {
            mesh.json(scope, of).iter().map(|(name, value)| (name.clone(), summary(value))).collect()
        };
        let expected = &istiod[*node];
        compare(node, "clusters", &all(ResourceType::Cluster, cluster), &expected["clusters"]);
        compare(node, "listeners", &all(ResourceType::Listener, listener), &expected["listeners"]);
        compare(node, "routes", &all(ResourceType::Route, route), &expected["routes"]);
        compare(node, "endpoints", &all(ResourceType::Endpoint, endpoints), &expected["endpoints"]);
    }
}
