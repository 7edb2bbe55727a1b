import { expect, test } from "vitest";
import type { Edge } from "./api";
import { layout } from "./layout";

const workload = (name: string) => ({ name, namespace: "n", app: name, version: "" });
const edge = (source: string, destination: string, over: Partial<Edge> = {}): Edge => ({
  source: workload(source),
  destination: workload(destination),
  service: `${destination}.n.svc.cluster.local`,
  protocol: "http",
  requests: { 200: 1 },
  failed: 0,
  buckets: [],
  bytes: 0,
  opened: 0,
  mutualTls: null,
  principals: [],
  ...over,
});

test("callers stand left of whom they call, and the picture does not depend on the order of edges", () => {
  const edges = [edge("reviews", "ratings"), edge("gateway", "productpage"), edge("productpage", "reviews")];
  const placed = layout(edges);
  const x = (name: string) => placed.nodes.find((n) => n.workload.name === name)!.x;
  expect(x("gateway")).toBeLessThan(x("productpage"));
  expect(x("reviews")).toBeLessThan(x("ratings"));
  const again = layout([...edges].reverse());
  expect(again.nodes.map((n) => [n.id, n.x, n.y]).sort()).toEqual(placed.nodes.map((n) => [n.id, n.x, n.y]).sort());
});

test("gateways stand left of everything, databases right of it", () => {
  const tcp: Partial<Edge> = { protocol: "tcp", requests: {}, bytes: 9 };
  const placed = layout([edge("gateway", "page"), edge("page", "a"), edge("a", "b"), edge("page", "db", tcp), edge("client", "b")]);
  const xs = new Map(placed.nodes.map((n) => [n.workload.name, n.x]));
  expect(Math.min(...xs.values())).toBe(xs.get("gateway"));
  expect(Math.max(...xs.values())).toBe(xs.get("db"));
  expect([...xs].filter(([, x]) => x === xs.get("db"))).toHaveLength(1);
  expect(placed.nodes.find((n) => n.workload.name === "db")!.kind).toBe("database");
});

test("two names of one pair are one edge, and requests that reached no workload lead to the service", () => {
  const both = layout([edge("a", "b"), edge("a", "b", { service: "other" }), edge("a", "unknown", { service: "b.n.svc.cluster.local" })]);
  expect(both.paths.map((p) => [p.key, p.edges.length])).toEqual([["n/a>n/b", 2], ["n/a>service/b.n.svc.cluster.local", 1]]);
  expect(both.nodes.find((n) => n.kind === "service")!.workload.name).toBe("b");
});
