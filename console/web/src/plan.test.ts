import { expect, test } from "vitest";
import type { Edge, Resource } from "./api";
import { allowedBy, callerEffects, difference, modeEffects, onlyCallers, routeEffects, settings, withSettings } from "./plan";

const rule = { spec: { host: "reviews", subsets: [{ name: "v1" }, { name: "v2" }] } } as unknown as Resource;
const routes: Resource = {
  apiVersion: "networking.istio.io/v1",
  kind: "VirtualService",
  metadata: { name: "reviews", namespace: "default" },
  spec: {
    hosts: ["reviews"],
    http: [
      { match: [{ headers: { "end-user": { exact: "jason" } } }], route: [{ destination: { host: "reviews", subset: "v2" } }] },
      { route: [{ destination: { host: "reviews", subset: "v1" } }], retries: { attempts: 3 } },
    ],
  },
};

test("a moved weight changes the fallback rule alone", () => {
  const wanted = { ...settings(routes, rule), weights: { v1: 30, v2: 70 }, timeout: "2s" };
  const changed = withSettings("reviews", "default", routes, wanted);
  expect(changed.spec.http[0]).toEqual(routes.spec.http[0]);
  expect(changed.spec.http[1]).toEqual({
    route: [
      { destination: { host: "reviews", subset: "v1" }, weight: 30 },
      { destination: { host: "reviews", subset: "v2" }, weight: 70 },
    ],
    retries: { attempts: 3 },
    timeout: "2s",
  });
  expect(settings(changed, rule).weights).toEqual({ v1: 30, v2: 70 });
});

test("settings that are taken back leave no trace, and a service without routes gets some", () => {
  const faulty = withSettings("reviews", "default", routes, { ...settings(routes, rule), abortPercent: 50 });
  expect(faulty.spec.http[1].fault.abort).toEqual({ percentage: { value: 50 }, httpStatus: 503 });
  const healed = withSettings("reviews", "default", faulty, { ...settings(faulty, rule), abortPercent: 0 });
  expect(healed).toEqual(routes);
  expect(withSettings("a", "n", null, settings(null, null)).spec.http).toEqual([{ route: [{ destination: { host: "a" } }] }]);
});

test("a difference keeps what stays", () => {
  const signs = difference("a\nb\nc\n", "a\nx\nc\n").map((l) => l.sign + l.line);
  expect(signs).toEqual([" a", "-b", "+x", " c"]);
  expect(difference("", "a\n")).toEqual([{ sign: "+", line: "a" }]);
});

const workload = (name: string, version = "v1") => ({ name, namespace: "default", app: name, version });
const edge = (source: string, version: string, count: number, principals: string[], mutualTls = true): Edge => ({
  source: workload(source),
  destination: workload(`reviews-${version}`, version),
  service: "reviews.default.svc.cluster.local",
  protocol: "http",
  requests: { 200: count },
  failed: 0,
  buckets: [],
  bytes: 0,
  opened: 0,
  mutualTls,
  principals,
});
const ITS = [edge("page", "v1", 30, ["spiffe://t/ns/default/sa/page"]), edge("old", "v2", 10, [], false)];

test("the effect of weights is told in requests", () => {
  const before = settings(null, rule);
  const texts = routeEffects("reviews", before, { ...before, weights: { v1: 0, v2: 100 }, abortPercent: 50 }, 1, ITS, 10).map((e) => e.text);
  expect(texts).toEqual([
    "reviews v1 gets 0 % of the requests: 3.0/s now, about 0.0/s then",
    "reviews v2 gets 100 % of the requests: 1.0/s now, about 4.0/s then",
    "50 % of the requests are answered 503 by the caller's proxy and never arrive: about 2.0/s",
    "One rule with a match comes first and stays as it was",
  ]);
});

test("who would be shut out is named", () => {
  const allowed = ["t/ns/default/sa/page"];
  expect(callerEffects(allowed, ITS, 10)).toEqual([{ tone: "bad", text: "old (no identity) is refused with 403: 1.0/s now" }]);
  expect(callerEffects(allowed, ITS.slice(0, 1), 10)[0]!.tone).toBe("info");
  expect(modeEffects("STRICT", ITS, 10)).toEqual([{ tone: "bad", text: "old calls in plaintext and is refused: 1.0/s now" }]);
  const policy = onlyCallers("reviews", "default", { app: "reviews" }, allowed);
  expect(allowedBy(policy)).toEqual(allowed);
  expect(onlyCallers("reviews", "default", {}, null)).toBeNull();
});
