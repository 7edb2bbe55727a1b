import { expect, test } from "vitest";
import type { Resource } from "./api";
import { KINDS } from "./api";
import { stateOf } from "./status";

const resource = (status: Resource["status"], kind = "DestinationRule", generation = 2): Resource => ({
  apiVersion: "networking.istio.io/v1",
  kind,
  metadata: { name: "a", namespace: "n", generation },
  spec: {},
  status,
});
const reconciled = (status: string, message = "") => [{ type: "Reconciled", status, reason: "Accepted", message }];

test.each([
  ["nothing said", resource(undefined), "unknown", "not judged yet"],
  ["of an older generation", resource({ conditions: reconciled("True"), observedGeneration: 1 }), "unknown", "not judged yet"],
  ["accepted", resource({ conditions: reconciled("True"), observedGeneration: 2 }), "good", "valid"],
  [
    "with a warning",
    resource({ conditions: reconciled("True", "three hosts: none is ejected"), validationMessages: [{ type: { code: "NothingEjected" }, level: "WARNING" }], observedGeneration: 2 }),
    "warn",
    "three hosts: none is ejected",
  ],
  ["with a note", resource({ conditions: reconciled("True", "fine so"), validationMessages: [{ level: "INFO" }] }), "good", "valid; fine so"],
  ["with an error", resource({ conditions: reconciled("False", "no subset v9"), validationMessages: [{ level: "ERROR" }] }), "bad", "no subset v9"],
  ["a message alone", resource({ conditions: reconciled("True"), validationMessages: [{ type: { name: "NothingEjected" }, level: "WARNING" }] }), "warn", "NothingEjected"],
  ["an entry", resource(undefined, "WorkloadEntry"), "unknown", "taken as healthy"],
  ["a healthy entry", resource({ conditions: [{ type: "Healthy", status: "True" }] }, "WorkloadEntry"), "good", "healthy"],
  ["a sick entry", resource({ conditions: [{ type: "Healthy", status: "False", reason: "Lost" }] }, "WorkloadEntry"), "bad", "Lost"],
])("a status: %s", (_, of, kind, text) => {
  expect(stateOf(of)).toEqual({ kind, text });
});

test("every kind is there, in its group", () => {
  expect(Object.keys(KINDS)).toHaveLength(12);
  for (const { group, plural } of Object.values(KINDS)) expect(`${group}/${plural}`).toMatch(/^(networking|security|telemetry)\.istio\.io\/v1(beta1)?\/[a-z]+$/);
});
