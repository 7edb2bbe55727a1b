import { expect, test } from "vitest";
import type { Resource } from "./api";
import { allowedBy, difference, onlyCallers, rebased, settings, withSettings } from "./plan";

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

test("what was touched survives what is loaded late, and what was applied is wanted no more", () => {
  const none = settings(null, rule);
  const touched = { ...none, abortPercent: 100 };
  expect(rebased(touched, none, settings(routes, rule))).toEqual({ ...settings(routes, rule), abortPercent: 100 });
  expect(rebased(touched, none, none)).toEqual(touched);
  expect(rebased(touched, touched, none)).toEqual(none);
});

test("a difference keeps what stays", () => {
  const signs = difference("a\nb\nc\n", "a\nx\nc\n").map((l) => l.sign + l.line);
  expect(signs).toEqual([" a", "-b", "+x", " c"]);
  expect(difference("", "a\n")).toEqual([{ sign: "+", line: "a" }]);
});

test("who may call is written as one policy, and read from it", () => {
  const allowed = ["t/ns/default/sa/page"];
  const policy = onlyCallers("reviews", "default", { app: "reviews" }, allowed);
  expect(allowedBy(policy)).toEqual(allowed);
  expect(onlyCallers("reviews", "default", {}, null)).toBeNull();
});
