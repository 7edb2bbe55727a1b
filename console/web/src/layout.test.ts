import { expect, test } from "vitest";
import type { Edge } from "./api";
import { layout, merged } from "./layout";

const workload = (name: string) => ({ name, namespace: "n", app: name, version: "" });
const edge = (source: string, destination: string, over: Partial<Edge> = {}): Edge => ({
  source: workload(source),
  destination: workload(destination),
  service: destination,
  protocol: "http",
  rate: 1,
  errorPercent: 0,
  p50Ms: null,
  p99Ms: null,
  bytesRate: 0,
  connections: 0,
  mutualTls: null,
  responses: {},
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

test("two names of one pair are one edge", () => {
  const both = merged([edge("a", "b", { rate: 3, errorPercent: 100 }), edge("a", "b", { rate: 1, mutualTls: true })]);
  expect(both).toHaveLength(1);
  expect(both[0]).toMatchObject({ rate: 4, errorPercent: 75, mutualTls: true });
});
