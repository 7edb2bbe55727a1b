import { expect, test } from "vitest";
import type { Edge } from "./api";
import { bytes, health, percent, quantile, requests, responses, services, shortHost, splits, sum } from "./figures";

const workload = (name: string) => ({ name, namespace: "default", app: name, version: "v1" });
const edge = (over: Partial<Edge>): Edge => ({
  source: workload("a"),
  destination: workload("b"),
  service: "b.default.svc.cluster.local",
  protocol: "http",
  requests: { 200: 10 },
  failed: 0,
  buckets: [[5, 5], [10, 10], [null, 10]],
  bytes: 0,
  opened: 0,
  mutualTls: true,
  principals: [],
  ...over,
});

test("counts add up, and a percentile is that of all requests together", () => {
  const slow = edge({ requests: { 200: 5, "503 UF": 5 }, failed: 5, buckets: [[5, 0], [10, 0], [100, 10], [null, 10]], mutualTls: null });
  const summary = sum([edge({ buckets: [[5, 5], [10, 10], [100, 10], [null, 10]] }), slow], 10);
  expect(summary).toMatchObject({ requests: 20, failed: 5, errorPercent: 25, p50Ms: 10, mutualTls: true });
  expect(requests(summary, false)).toBe("2.0/s");
  expect(requests(summary, true)).toBe("20");
  expect(responses([edge({}), slow])).toEqual([["200", 15], ["503 UF", 5]]);
  expect(sum([], 10)).toMatchObject({ requests: 0, errorPercent: 0, p50Ms: null, mutualTls: null });
});

test("quantiles are Prometheus' own", () => {
  const buckets: [number, number][] = [[1, 0], [5, 50], [10, 100], [Infinity, 100]];
  expect(quantile(buckets, 0.5)).toBe(5);
  expect(quantile(buckets, 0.75)).toBe(7.5);
  expect(quantile([[1, 1], [Infinity, 100]], 0.99)).toBe(1);
  expect(quantile([], 0.5)).toBeNull();
});

test("one plaintext edge opens the lock", () => {
  expect(sum([edge({}), edge({ mutualTls: false })], 1).mutualTls).toBe(false);
});

test("hosts are shortened and services sorted", () => {
  expect(shortHost("reviews.default.svc.cluster.local")).toBe("reviews.default");
  expect([...services([edge({ service: "z" }), edge({ service: "a" }), edge({ service: "unknown" })]).keys()]).toEqual(["a", "z"]);
});

test("figures are written for people", () => {
  const of = (n: number) => ({ ...sum([], 2), bytes: n });
  expect([bytes(of(0), false), bytes(of(3000), false), bytes(of(250_000), true)]).toEqual(["0 B/s", "1.5 kB/s", "250 kB"]);
  expect([percent(0), percent(0.01), percent(12.34), percent(99.99)]).toEqual(["0 %", "<0.1 %", "12.3 %", "100 %"]);
});

test("an edge is red from five percent of errors on, and grey when nothing flows", () => {
  const failing = (failed: number) => health(sum([edge({ requests: { 200: 100 - failed, 503: failed }, failed })], 1));
  expect([failing(0), failing(1), failing(5)]).toEqual(["good", "warn", "bad"]);
  expect(health(sum([edge({ requests: {}, buckets: [] })], 1))).toBe("idle");
});

test("who splits traces is told how often, and what to hand on", () => {
  const said = splits({ ...workload("reviews-v4"), lost: 30, lostPercent: 12.34 });
  expect(said).toContain("12.3 % of its calls");
  expect(said).toContain("traceparent");
});
