//! Route tables and requests from a seed: which route each request takes is what is compared.
//!
//! Tables and requests draw from one small vocabulary, so that most requests come close to several routes.

use base::{Random as _, SeededRandom};
use serde_json::{Map, Value, json};

use crate::case::{Case, ClusterSpec, Group, Many};
use crate::message::request;

/// Tables whose routes answer by themselves, and how much each is asked.
const DIRECT: (usize, usize) = (24, 20);
/// Tables whose routes rewrite and go to the upstream.
const FORWARD: (usize, usize) = (8, 4);
/// Ways of making paths canonical.
const PATHS: (usize, usize) = (10, 3);
/// Requests of one case, sent in one go.
const BATCH: usize = 50;

const SEED: u64 = 20_261_124;

/// All generated groups; their names begin with `generated-`.
pub fn groups() -> Vec<Group> {
    let seed = std::env::var("MIZZEN_DIFFERENTIAL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(SEED);
    let mut draw = Draw(SeededRandom::new(seed));
    let mut groups = Vec::new();
    for i in 0..DIRECT.0 {
        let hosts = draw.hosts();
        let mut group = group(format!("generated-routes-{i}"), draw.cases(DIRECT.1, Draw::request));
        group.virtual_hosts = hosts;
        group.route_config.insert("ignore_port_in_host_matching".into(), json!(draw.one_in(2)));
        groups.push(group);
    }
    for i in 0..FORWARD.0 {
        let mut group = group(format!("generated-rewrites-{i}"), draw.cases(FORWARD.1, Draw::request));
        group.routes = (0..10).map(|_| draw.forwarding()).collect();
        groups.push(group);
    }
    for i in 0..PATHS.0 {
        let mut group = group(format!("generated-paths-{i}"), draw.cases(PATHS.1, Draw::odd_request));
        group.hcm = draw.path_policy();
        group.routes = vec![json!({"match": {"prefix": "/a/b"}}), json!({"match": {"prefix": "/"}})];
        groups.push(group);
    }
    groups
}

/// By the name of a group or a case.
pub fn is_generated(name: &str) -> bool {
    name.starts_with("generated-")
}

fn group(name: String, cases: Vec<Case>) -> Group {
    Group {
        group: name,
        http2: false,
        pause: 0,
        hcm: Map::new(),
        tcp: None,
        network: Vec::new(),
        tls: None,
        upstream_tls: None,
        chains: Vec::new(),
        listener_filters: Vec::new(),
        filters: Vec::new(),
        router: Map::new(),
        cluster: ClusterSpec::default(),
        clusters: Default::default(),
        listener: Map::new(),
        route_config: Map::new(),
        virtual_host: Map::new(),
        routes: Vec::new(),
        virtual_hosts: Vec::new(),
        log: Vec::new(),
        log_filter: None,
        upstream: Vec::new(),
        asked: Vec::new(),
        cases,
    }
}

const SEGMENTS: &[&str] = &["a", "b", "api", "v1", "v2", "Users", "users", "x.y", "a-b", "%20", "~", "1"];
const METHODS: &[&str] = &["GET", "GET", "GET", "POST", "PUT", "DELETE", "OPTIONS"];
const HEADERS: &[&str] = &["x-a", "x-b", "x-num", "x-user", "content-type"];
const VALUES: &[&str] =
    &["1", "-5", "10", "007", "abc", "ABC", "abcdef", "a", "a,b", "application/grpc", "12x", "jason"];
const QUERY_KEYS: &[&str] = &["q", "id", "flag", "Q"];
const QUERY_VALUES: &[&str] = &["1", "2", "abc", "ABC", "", "a%20b", "a=b"];
const COOKIES: &[&str] = &["k", "session", "K"];
const DOMAINS: &[&str] = &[
    "a.example",
    "b.example",
    "*.example",
    "*.b.example",
    "*-x.example",
    "a.*",
    "www.*",
    "www.b.*",
    "b.example:8080",
    "*:8080",
    "[::1]",
    "C.Example",
];
const HOSTS: &[&str] = &[
    "a.example",
    "b.example",
    "A.Example",
    "www.b.example",
    "c-x.example",
    "c.example",
    "x.y",
    "b.example:8080",
    "a.example:80",
    "a.test",
    "www.test:8080",
    "example",
    "[::1]",
    "[::1]:80",
];
const REGEXES: &[&str] = &[
    "/a/[^/]+",
    "/api/v[0-9]+(/.*)?",
    "/(a|b)(/.*)?",
    ".*\\.y",
    "/[a-z]+/[a-z0-9]+/?",
    "/(?i)users/.*",
    "/users/\\d+",
    "/a.*b",
    ".*",
    "/[^?]*",
];
const TEMPLATES: &[&str] =
    &["/api/{version}/*", "/{a}/b", "/a/**", "/{x}", "/api/{version=*}/{rest=**}", "/*/*", "/a/{b}/{c}"];
const VALUE_REGEXES: &[&str] = &["[0-9]+", "a.*", "(abc|ABC)", ".+", "^a$", "[^,]*"];

/// A source of everything, from one seed.
struct Draw(SeededRandom);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn cases(&mut self, count: usize, one: fn(&mut Self) -> String) -> Vec<Case> {
        let case = |i: usize, messages: Vec<String>| Case {
            name: format!("batch {i}"),
            send: Many::None,
            raw: Many::Several(messages),
            // Envoy closes a connection on which several of its own answers wait.
            pipeline: false,
            half_close: false,
            probe: true,
            patience: 20_000,
            unordered: false,
            copies: 0,
            hello: Default::default(),
            http2: false,
            upstream: None,
            asked: None,
        };
        (0..count).map(|i| case(i, (0..BATCH).map(|_| request(&one(self))).collect())).collect()
    }

    fn path(&mut self) -> String {
        let mut path = String::new();
        for _ in 0..self.below(4) {
            path.push('/');
            path.push_str(self.pick(SEGMENTS));
        }
        if path.is_empty() || self.one_in(4) {
            path.push('/');
        }
        path
    }

    fn request(&mut self) -> String {
        let mut text = format!("{} {}", self.pick(METHODS), self.path());
        for i in 0..self.below(6).saturating_sub(3) {
            text.push(if i == 0 { '?' } else { '&' });
            text.push_str(self.pick(QUERY_KEYS));
            if !self.one_in(6) {
                text.push('=');
                text.push_str(self.pick(QUERY_VALUES));
            }
        }
        text.push_str(&format!("\nhost: {}", self.pick(HOSTS)));
        let mut typed = false;
        for _ in 0..self.below(4) {
            let name = self.pick(HEADERS);
            if name == "content-type" && std::mem::replace(&mut typed, true) {
                continue;
            }
            text.push_str(&format!("\n{name}: {}", self.pick(VALUES)));
        }
        if self.one_in(5) {
            text.push_str(&format!("\ncookie: {}={}", self.pick(COOKIES), self.pick(VALUES)));
            if self.one_in(2) {
                text.push_str(&format!("; {}={}", self.pick(COOKIES), self.pick(VALUES)));
            }
        }
        if self.one_in(30) {
            text.push_str("\nx-note: caf\u{e9}");
        }
        text
    }

    /// A path in many disguises.
    fn odd_request(&mut self) -> String {
        const PARTS: &[&str] = &[
            "a", "b", "..", ".", "%2e", "%2E%2e", "", "%2f", "%2Fb", "%5c", "a%20b", "\\", ";x=1", "%25",
            "a;b", "%7e", "...", "%zz", "A", "*", "b?c", "%3F",
        ];
        let mut path = String::new();
        for _ in 0..=self.below(5) {
            path.push('/');
            path.push_str(self.pick(PARTS));
        }
        if path
            .split('/')
            .all(|part| matches!(part, "" | "." | ".." | "%2e" | "%2E%2e" | "%2f" | "%5c" | "\\"))
        {
            // Envoy merges slashes alone into two of them.
            path.push_str("/z");
        }
        if self.one_in(3) {
            path.push_str("?q=/../%2f//");
        }
        format!("GET {path}")
    }

    fn path_policy(&mut self) -> Map<String, Value> {
        const ESCAPED: &[&str] =
            &["KEEP_UNCHANGED", "REJECT_REQUEST", "UNESCAPE_AND_REDIRECT", "UNESCAPE_AND_FORWARD"];
        let policy = json!({
            "normalize_path": self.one_in(2),
            "merge_slashes": self.one_in(2),
            "path_with_escaped_slashes_action": self.pick(ESCAPED),
        });
        policy.as_object().cloned().unwrap_or_default()
    }

    fn hosts(&mut self) -> Vec<Value> {
        let mut left = DOMAINS.to_vec();
        let mut hosts = Vec::new();
        for i in 0..=self.below(4) {
            let count = 1 + self.below(2);
            let domains: Vec<&str> = (0..count).map(|_| left.swap_remove(self.below(left.len()))).collect();
            hosts.push(self.host(i, &domains));
        }
        if !self.one_in(4) {
            hosts.push(self.host(hosts.len(), &["*"]));
        }
        hosts
    }

    fn host(&mut self, index: usize, domains: &[&str]) -> Value {
        let routes: Vec<Value> = (0..3 + self.below(12)).map(|i| self.answering(index, i)).collect();
        json!({"name": format!("h{index}"), "domains": domains, "routes": routes})
    }

    fn answering(&mut self, host: usize, index: usize) -> Value {
        let mut route = json!({"name": format!("h{host}r{index}"), "match": self.matcher()});
        if self.one_in(6) {
            route["redirect"] = self.redirect();
            if route["match"].get("path_match_policy").is_some() {
                // Envoy takes no prefix for a template.
                route["redirect"].as_object_mut().map(|r| r.remove("prefix_rewrite"));
            }
        } else {
            route["to"] = json!(format!("h{host}r{index}"));
        }
        route
    }

    fn matcher(&mut self) -> Value {
        let mut matcher = match self.below(12) {
            0..=3 => json!({"prefix": self.path()}),
            4..=5 => json!({"path": self.path()}),
            6..=7 => {
                let path = format!("/{}{}", self.pick(SEGMENTS), self.path());
                json!({"path_separated_prefix": path.trim_end_matches('/')})
            }
            8..=9 => json!({"safe_regex": {"regex": self.pick(REGEXES)}}),
            10 => json!({"path_match_policy": {
                "name": "envoy.path.match.uri_template.uri_template_matcher",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                    "path_template": self.pick(TEMPLATES),
                },
            }}),
            _ => json!({"prefix": "/"}),
        };
        if self.one_in(5) {
            matcher["case_sensitive"] = json!(false);
        }
        let headers: Vec<Value> = (0..self.below(5).saturating_sub(2)).map(|_| self.header()).collect();
        if !headers.is_empty() {
            matcher["headers"] = json!(headers);
        }
        if self.one_in(5) {
            matcher["query_parameters"] = json!([self.query()]);
        }
        if self.one_in(25) {
            matcher["grpc"] = json!({});
        }
        if self.one_in(15) {
            let share = if self.one_in(2) { 0 } else { 100 };
            matcher["runtime_fraction"] = json!({"default_value": {"numerator": share}});
        }
        matcher
    }

    fn string(&mut self, values: &[&str]) -> Value {
        let value = loop {
            let value = self.pick(values);
            if !value.is_empty() {
                break value;
            }
        };
        let mut matcher = match self.below(5) {
            0 => json!({"prefix": value}),
            1 => json!({"suffix": value}),
            2 => json!({"contains": value}),
            3 => return json!({"safe_regex": {"regex": self.pick(VALUE_REGEXES)}}),
            _ => json!({"exact": value}),
        };
        if self.one_in(3) {
            matcher["ignore_case"] = json!(true);
        }
        matcher
    }

    fn header(&mut self) -> Value {
        if self.one_in(4) {
            return json!({"name": ":method", "string_match": {"exact": self.pick(METHODS)}});
        }
        let name = if self.one_in(8) { ":authority" } else { self.pick(HEADERS) };
        let mut matcher = match self.below(6) {
            0 => json!({"present_match": self.one_in(2)}),
            1 => json!({"range_match": {"start": self.below(10) as i64 - 6, "end": self.below(12)}}),
            _ => json!({"string_match": self.string(if name == ":authority" { HOSTS } else { VALUES })}),
        };
        matcher["name"] = json!(name);
        if self.one_in(4) {
            matcher["invert_match"] = json!(true);
        }
        if self.one_in(6) {
            matcher["treat_missing_header_as_empty"] = json!(true);
        }
        matcher
    }

    fn query(&mut self) -> Value {
        let name = self.pick(QUERY_KEYS);
        match self.below(3) {
            0 => json!({"name": name, "present_match": !self.one_in(3)}),
            _ => json!({"name": name, "string_match": self.string(QUERY_VALUES)}),
        }
    }

    fn redirect(&mut self) -> Value {
        const CODES: &[&str] =
            &["MOVED_PERMANENTLY", "FOUND", "SEE_OTHER", "TEMPORARY_REDIRECT", "PERMANENT_REDIRECT"];
        let mut redirect = json!({"response_code": self.pick(CODES)});
        if self.one_in(2) {
            redirect["host_redirect"] = json!("moved.example");
        }
        match self.below(3) {
            0 => redirect["https_redirect"] = json!(true),
            1 => redirect["scheme_redirect"] = json!("https"),
            _ => {}
        }
        match self.below(4) {
            0 => redirect["path_redirect"] = json!("/moved"),
            1 => redirect["path_redirect"] = json!("/moved?z=1"),
            2 => redirect["prefix_rewrite"] = json!(self.path()),
            _ => {}
        }
        if self.one_in(3) {
            redirect["strip_query"] = json!(true);
        }
        if self.one_in(4) {
            redirect["port_redirect"] = json!(8443);
        }
        redirect
    }

    fn forwarding(&mut self) -> Value {
        let mut route = json!({"match": self.matcher(), "route": {}});
        let action = &mut route["route"];
        match self.below(4) {
            0 => action["prefix_rewrite"] = json!(self.path()),
            1 => {
                action["regex_rewrite"] = json!({
                    "pattern": {"regex": "^/([^/]+)/(.*)$"}, "substitution": "/\\2/was/\\1",
                });
            }
            _ => {}
        }
        match self.below(4) {
            0 => action["host_rewrite_literal"] = json!("rewritten.example"),
            1 => action["host_rewrite_header"] = json!("x-user"),
            2 => {
                action["host_rewrite_path_regex"] =
                    json!({"pattern": {"regex": "^/([a-z]+).*$"}, "substitution": "\\1.example"});
            }
            _ => {}
        }
        if self.one_in(3) {
            action["append_x_forwarded_host"] = json!(true);
        }
        route
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_tables_and_enough_requests() {
        let (one, other) = (groups(), groups());
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        let requests: usize = one.iter().map(|g| g.cases.len() * BATCH).sum();
        assert!(requests >= 20_000, "{requests}");
    }
}
