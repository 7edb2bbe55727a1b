// What a resource's status says of it. Pure.

import type { Resource } from "./api";

export interface State {
  text: string;
  kind: "good" | "warn" | "bad" | "unknown";
}

const UNJUDGED: State = { text: "not judged yet", kind: "unknown" };

/** What its conditions and findings say: bad ones first. Where nobody has said anything yet, it is not known to be valid. */
export function stateOf(resource: Resource): State {
  const { conditions = [], validationMessages = [], observedGeneration } = resource.status ?? {};
  // Entries are not judged: their only condition is whether they are healthy.
  if (resource.kind === "WorkloadEntry" && conditions.length === 0) return { text: "taken as healthy", kind: "unknown" };
  const { generation } = resource.metadata;
  const isOld = observedGeneration !== undefined && generation !== undefined && Number(observedGeneration) < generation;
  if (conditions.length === 0 || isOld) return UNJUDGED;
  const failed = conditions.filter((c) => c.status === "False");
  const first = failed.find((c) => c.type !== "Reconciled") ?? failed[0];
  if (first) return { text: first.message || first.reason || first.type, kind: "bad" };
  const unknown = conditions.find((c) => c.status !== "True");
  if (unknown) return { text: unknown.message || unknown.reason || `${unknown.type} is not known`, kind: "unknown" };
  const levels = validationMessages.map((m) => m.level);
  const told = conditions.find((c) => c.type === "Reconciled")?.message || validationMessages.map((m) => m.type?.name ?? m.type?.code).join(", ");
  if (levels.includes("ERROR")) return { text: told, kind: "bad" };
  if (levels.includes("WARNING")) return { text: told, kind: "warn" };
  if (resource.kind === "WorkloadEntry") return { text: "healthy", kind: "good" };
  return { text: levels.length > 0 ? `valid; ${told}` : "valid", kind: "good" };
}
