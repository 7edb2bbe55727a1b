import { expect, test } from "vitest";
import type { Edge } from "./api";
import { bytes, percent, services, shortHost, sum } from "./figures";

const workload = (name: string) => ({ name, namespace: "default", app: name, version: "v1" });
const edge = (over: Partial<Edge>): Edge => ({
  source: workload("a"),
  destination: workload("b"),
  service: "b.default.svc.cluster.local",
  protocol: "http",
  rate: 1,
  errorPercent: 0,
  p50Ms: 1,
  p99Ms: 2,
  bytesRate: 0,
  connections: 0,
  mutualTls: true,
  responses: {},
  ...over,
});

test("errors weigh by their rates", () => {
  const summary = sum([edge({ rate: 9 }), edge({ rate: 1, errorPercent: 100, p99Ms: 50, mutualTls: null })]);
  expect(summary).toMatchObject({ rate: 10, errorPercent: 10, p99Ms: 50, mutualTls: true });
  expect(sum([])).toMatchObject({ rate: 0, errorPercent: 0, mutualTls: null });
});

test("one plaintext edge opens the lock", () => {
  expect(sum([edge({}), edge({ mutualTls: false })]).mutualTls).toBe(false);
});

test("hosts are shortened and services sorted", () => {
  expect(shortHost("reviews.default.svc.cluster.local")).toBe("reviews.default");
  expect([...services([edge({ service: "z" }), edge({ service: "a" }), edge({ service: "unknown" })]).keys()]).toEqual(["a", "z"]);
});

test("figures are written for people", () => {
  expect([bytes(0), bytes(1500), bytes(250_000)]).toEqual(["0 B/s", "1.5 kB/s", "250 kB/s"]);
  expect([percent(0), percent(0.01), percent(12.34)]).toEqual(["0 %", "<0.1 %", "12.3 %"]);
});
