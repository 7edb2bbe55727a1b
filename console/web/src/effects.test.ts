import { expect, test } from "vitest";
import type { Edge, Resource } from "./api";
import { effectsOf, matchWords } from "./effects";

const workload = (app: string, version: string) => ({ name: `${app}-${version}`, namespace: "default", app, version });
const edge = (source: string, service: string, version: string, count: number, over: Partial<Edge> = {}): Edge => ({
  source: workload(source, "v1"),
  destination: workload(service, version),
  service: `${service}.default.svc.cluster.local`,
  protocol: "http",
  requests: { 200: count },
  failed: 0,
  buckets: [],
  bytes: 0,
  opened: 0,
  mutualTls: true,
  principals: [`spiffe://t/ns/default/sa/${source}`],
  ...over,
});
/** In ten seconds. */
const EDGES = [
  edge("page", "reviews", "v1", 30),
  edge("old", "reviews", "v2", 10, { mutualTls: false, principals: [] }),
  edge("reviews", "ratings", "v1", 20),
  edge("ratings", "mysqldb", "v1", 0, { protocol: "tcp", requests: {}, bytes: 500 }),
];

const resource = (kind: string, spec: unknown, namespace = "default"): Resource => ({ apiVersion: "x/v1", kind, metadata: { name: "a", namespace }, spec });
const routes = (...http: unknown[]) => resource("VirtualService", { hosts: ["reviews"], http });
const to = (subset?: string, weight?: number) => ({ destination: { host: "reviews", ...(subset && { subset }) }, ...(weight !== undefined && { weight }) });
const JASON = { match: [{ headers: { "end-user": { exact: "jason" } } }], route: [to("v2")] };
const told = (before: Resource | null, after: Resource | null) => effectsOf(before, after, EDGES, 10).map((e) => `${e.tone}: ${e.text}`);

const V1 = routes({ route: [to("v1")] });

test.each<[string, Resource | null, Resource | null, string[]]>([
  ["nothing", V1, structuredClone(V1), ["info: Nothing changes for any request"]],
  ["weights", V1, routes({ route: [to("v1", 50), to("v2", 50)] }), [
    "info: reviews v1 gets 50 % of the requests: 3.0/s now, about 2.0/s then",
    "info: reviews v2 gets 50 % of the requests: 1.0/s now, about 2.0/s then",
  ]],
  ["weights of any sum", V1, routes({ route: [to("v1", 1), to("v2", 3)] }), [
    "info: reviews v1 gets 25 % of the requests: 3.0/s now, about 1.0/s then",
    "info: reviews v2 gets 75 % of the requests: 1.0/s now, about 3.0/s then",
  ]],
  ["the first rule of all", null, routes({ route: [to("v2")] }), [
    "info: reviews v1 gets 0 % of the requests: 3.0/s now, about 0.0/s then",
    "info: reviews v2 gets 100 % of the requests: 1.0/s now, about 4.0/s then",
  ]],
  ["no version any more", V1, routes({ route: [to()] }), ["info: Every replica of every version of reviews gets its share"]],
  ["a timeout alone", null, routes({ route: [to()], timeout: "2s" }), ["warn: A call that takes longer than 2s is answered 504"]],
  ["a timeout that goes", routes({ route: [to()], timeout: "2s" }), routes({ route: [to()] }), ["info: Calls may take as long as they do"]],
  ["faults", V1, routes({ route: [to("v1")], fault: { delay: { percentage: { value: 10 }, fixedDelay: "7s" }, abort: { percentage: { value: 50 }, httpStatus: 503 } } }), [
    "bad: 10 % of the requests wait 7 s before they are sent: about 0.4/s",
    "bad: 50 % of the requests are answered 503 by the caller's proxy and never arrive: about 2.0/s",
  ]],
  ["faults that go", routes({ route: [to("v1")], fault: { abort: { percentage: { value: 50 }, httpStatus: 503 } } }), V1, ["info: Faults are no longer injected"]],
  ["retries", V1, routes({ route: [to("v1")], retries: { attempts: 3, perTryTimeout: "2s", retryOn: "5xx" } }), [
    "info: A request that fails is tried up to 3 more times, each for 2s at most, on 5xx",
  ]],
  ["no retries", V1, routes({ route: [to("v1")], retries: { attempts: 0 } }), ["info: No request is tried again"]],
  ["a mirror", V1, routes({ route: [to("v1")], mirror: { host: "reviews", subset: "v2" }, mirrorPercentage: { value: 50 } }), [
    "warn: 50 % of the requests go to reviews v2 as well, whose answers nobody sees: about 2.0/s",
  ]],
  ["a match that comes", V1, routes(JASON, { route: [to("v1")] }), ["info: header end-user is jason: new; such requests go to reviews v2"]],
  ["a match that goes", routes(JASON, { route: [to("v1")] }), V1, [
    "warn: The rule for header end-user is jason goes: such requests meet the next rule that matches them",
  ]],
  ["a match that changes", routes(JASON, { route: [to("v1")] }), routes({ ...JASON, match: [{ headers: { "end-user": { exact: "eve" } } }] }, { route: [to("v1")] }), [
    "warn: The rule for header end-user is jason is for header end-user is eve from now on",
  ]],
  ["a fault for some", routes(JASON, { route: [to("v1")] }), routes({ ...JASON, fault: { delay: { percentage: { value: 100 }, fixedDelay: "7s" } } }, { route: [to("v1")] }), [
    "bad: header end-user is jason: 100 % of the requests wait 7 s before they are sent",
  ]],
  ["the order", routes({ name: "a", match: [{ uri: { prefix: "/a" } }] }, { name: "b", match: [{ uri: { prefix: "/b" } }] }), routes({ name: "b", match: [{ uri: { prefix: "/b" } }] }, { name: "a", match: [{ uri: { prefix: "/a" } }] }), [
    "warn: Rules change places: the first that matches a request counts",
  ]],
  ["weights below a match", routes(JASON, { route: [to("v1")] }), routes(JASON, { route: [to("v2")] }), [
    "info: reviews v1 gets 0 % of the requests: 3.0/s now, about 0.0/s then",
    "info: reviews v2 gets 100 % of the requests: 1.0/s now, about 4.0/s then",
    "info: One rule with a match comes first and stays as it was",
  ]],
  ["nothing for the rest", routes(JASON, { route: [to("v1")] }), routes(JASON), [
    "warn: The rule for every request goes: such requests meet the next rule that matches them",
    "bad: Requests that no rule matches are answered 404",
  ]],
  ["an answer of its own", V1, routes({ directResponse: { status: 503 } }), ["bad: such requests are answered 503 by the caller's proxy and never arrive: about 4.0/s"]],
  ["all that goes", routes({ route: [to("v1")], timeout: "2s" }), null, [
    "info: No rule steers requests for reviews: every replica of every version gets its share",
    "info: Calls may take as long as they do",
  ]],
  ["a gateway's routes go", resource("VirtualService", { hosts: ["*"], gateways: ["door"], http: [{ match: [{ uri: { exact: "/productpage" } }], route: [{ destination: { host: "page" } }] }] }), null, [
    "bad: Gateway door answers 404 where no other route is for *",
    "info: path is /productpage: such requests are no longer told apart",
  ]],
])("what routes mean: %s", (_, before, after, expected) => {
  expect(told(before, after)).toEqual(expected);
});

test("matches are written in words", () => {
  expect(matchWords({ match: [{ uri: { prefix: "/API" }, ignoreUriCase: true, method: { exact: "GET" } }, { queryParams: { v: { regex: "[0-9]" } }, withoutHeaders: { bot: {} } }] })).toBe(
    "path begins with /API in any case and method is GET or not header bot is there and parameter v matches [0-9]",
  );
});

const rule = (spec: object) => resource("DestinationRule", { host: "reviews", ...spec });
const SUBSETS = { subsets: [{ name: "v1", labels: { version: "v1" } }, { name: "v2", labels: { version: "v2" } }] };

test.each<[string, Resource | null, Resource | null, string[]]>([
  ["subsets", rule(SUBSETS), rule({ subsets: [{ name: "v1", labels: { version: "v9" } }, { name: "v3", labels: { version: "v3" } }] }), [
    "warn: Subset v1 is version=v9 instead of version=v1",
    "info: Routes may name subset v3 (version=v3)",
    "bad: Routes that name subset v2 of reviews are answered 503: it gets 1.0/s now",
  ]],
  ["it goes", rule(SUBSETS), null, [
    "bad: Routes that name subset v1 of reviews are answered 503: it gets 3.0/s now",
    "bad: Routes that name subset v2 of reviews are answered 503: it gets 1.0/s now",
  ]],
  ["policies", rule({}), rule({ trafficPolicy: { loadBalancer: { simple: "ROUND_ROBIN" }, connectionPool: { http: { http1MaxPendingRequests: 1 } }, outlierDetection: { consecutive5xxErrors: 7, baseEjectionTime: "15m" } } }), [
    "info: reviews: replicas get requests in turn",
    "warn: reviews: where more than 1 requests wait for a connection, the rest are answered 503",
    "warn: reviews: a replica that answers 7 errors one after the other gets nothing for 15m; at most 10 % of the replicas at once",
  ]],
  ["policies that go", rule({ trafficPolicy: { loadBalancer: { consistentHash: { httpHeaderName: "user" } }, tls: { mode: "DISABLE" } } }), rule({}), [
    "info: reviews: of two replicas the one with fewer requests under way gets each",
    "info: reviews: calls leave by mutual TLS wherever the other side can",
  ]],
  ["of a subset and a port", rule({ subsets: [{ name: "v1" }] }), rule({ subsets: [{ name: "v1", trafficPolicy: { portLevelSettings: [{ port: { number: 80 }, tls: { mode: "DISABLE" } }] } }] }), [
    "bad: reviews v1: port 80: calls leave in plaintext: who takes mutual TLS alone refuses them",
  ]],
])("what a destination rule means: %s", (_, before, after, expected) => {
  expect(told(before, after)).toEqual(expected);
});

const policy = (spec: object, namespace = "default") => resource("AuthorizationPolicy", { selector: { matchLabels: { app: "reviews" } }, ...spec }, namespace);
const only = (...principals: string[]) => policy({ action: "ALLOW", rules: [{ from: [{ source: { principals } }] }] });
const PAGE = "t/ns/default/sa/page";

test.each<[string, Resource | null, Resource | null, string[]]>([
  ["only one", null, only(PAGE), ["bad: old-v1 (no identity) is refused with 403: 1.0/s now"]],
  ["another", only(PAGE), only("t/ns/default/sa/eve"), [
    "bad: page-v1 (t/ns/default/sa/page) is refused with 403: 3.0/s now",
    "bad: old-v1 (no identity) goes on being refused",
  ]],
  ["more", only("t/ns/default/sa/eve"), only("*/sa/page", "t/ns/default/sa/eve"), [
    "info: page-v1 (t/ns/default/sa/page) is let in, as far as no other policy says otherwise",
    "bad: old-v1 (no identity) goes on being refused",
  ]],
  ["nobody", null, policy({}), [
    "bad: page-v1 (t/ns/default/sa/page) is refused with 403: 3.0/s now",
    "bad: old-v1 (no identity) is refused with 403: 1.0/s now",
  ]],
  ["everybody", null, policy({ rules: [{}] }), ["info: Everybody who called in the last minutes may go on calling; all others are refused"]],
  ["by path", null, policy({ rules: [{ to: [{ operation: { paths: ["/reviews/*"], methods: ["GET"] } }] }] }), [
    "warn: page-v1 (t/ns/default/sa/page) is refused but where its requests match paths /reviews/* and methods GET: 3.0/s now",
    "warn: old-v1 (no identity) is refused but where its requests match paths /reviews/* and methods GET: 1.0/s now",
  ]],
  ["deny", null, policy({ action: "DENY", rules: [{ from: [{ source: { notPrincipals: [PAGE] } }] }] }), ["bad: old-v1 (no identity) is refused with 403: 1.0/s now"]],
  ["tcp", null, resource("AuthorizationPolicy", { selector: { matchLabels: { app: "mysqldb" } }, rules: [{ from: [{ source: { namespaces: ["other"] } }] }] }), [
    "bad: ratings-v1 (t/ns/default/sa/ratings) has its connections closed",
  ]],
  ["with a label that is not known", null, policy({ selector: { matchLabels: { app: "ratings", tier: "front" } }, rules: [{}] }), [
    "warn: It is for workloads with tier=front alone: who they are is not known here, so that fewer callers may be concerned than are named",
    "info: Everybody who called in the last minutes may go on calling; all others are refused",
  ]],
  ["it goes", only(PAGE), null, ["info: old-v1 (no identity) is let in, as far as no other policy says otherwise"]],
  ["for the mesh", null, resource("AuthorizationPolicy", { action: "DENY", rules: [{ from: [{ source: { namespaces: ["def*"] } }] }] }, "istio-system"), [
    "bad: page-v1 (t/ns/default/sa/page) is refused with 403: 3.0/s now",
    "bad: reviews-v1 (t/ns/default/sa/reviews) is refused with 403: 2.0/s now",
    "bad: ratings-v1 (t/ns/default/sa/ratings) has its connections closed",
  ]],
  ["audit", null, policy({ action: "AUDIT", rules: [{}] }), ["info: Requests that match are noted, and none is refused"]],
])("what an authorization policy means: %s", (_, before, after, expected) => {
  expect(told(before, after)).toEqual(expected);
});

const peer = (mode: string | undefined, more: object = {}) => resource("PeerAuthentication", { ...(mode && { mtls: { mode } }), ...more });

test.each<[string, Resource | null, Resource | null, string[]]>([
  ["strict", null, peer("STRICT"), ["bad: old-v1 calls in plaintext and is refused: 1.0/s now"]],
  ["strict for who is asked by mutual TLS", null, peer("STRICT", { selector: { matchLabels: { app: "ratings" } } }), [
    "info: Everybody who called in the last minutes uses mutual TLS already; plaintext is refused",
  ]],
  ["permissive", peer("STRICT"), peer("PERMISSIVE"), ["info: Plaintext is taken as well as mutual TLS"]],
  ["plaintext", peer("STRICT"), peer("DISABLE"), ["bad: Connections are no longer encrypted, and nobody proves who he is"]],
  ["it goes", peer("STRICT"), null, ["info: What the namespace or the mesh says holds again: where they say nothing, plaintext is taken as well as mutual TLS"]],
  ["a port", peer("STRICT"), peer("STRICT", { portLevelMtls: { 8080: { mode: "DISABLE" } } }), ["bad: Port 8080: Connections are no longer encrypted, and nobody proves who he is"]],
])("what a peer authentication means: %s", (_, before, after, expected) => {
  expect(told(before, after)).toEqual(expected);
});

test("of other kinds it is said that nothing is worked out", () => {
  expect(told(null, resource("Gateway", {}))).toEqual(["info: What a Gateway does to requests is not worked out here: its YAML says what changes"]);
});
