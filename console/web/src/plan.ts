// What a lever does to a resource. Pure: a resource in, a changed copy out.

import type { Resource } from "./api";

export interface Settings {
  /** Weight by subset of the rule that matches everything. */
  weights: Record<string, number>;
  timeout: string;
  delaySeconds: number;
  delayPercent: number;
  abortStatus: number;
  abortPercent: number;
}

export function subsets(rule: Resource | null): string[] {
  return (rule?.spec.subsets ?? []).map((s: { name: string }) => s.name);
}

/** The rule that applies when no other does: the one without a match. */
function fallback(routes: Resource | null): any {
  const rules: any[] = routes?.spec.http ?? [];
  return rules.find((r) => !r.match || r.match.length === 0) ?? null;
}

export function settings(routes: Resource | null, rule: Resource | null): Settings {
  const current = fallback(routes);
  const weights: Record<string, number> = Object.fromEntries(subsets(rule).map((s) => [s, 0]));
  const targets: any[] = current?.route ?? [];
  for (const target of targets) {
    const subset = target.destination?.subset;
    if (subset) weights[subset] = target.weight ?? (targets.length === 1 ? 100 : 0);
  }
  return {
    weights,
    timeout: current?.timeout ?? "",
    delaySeconds: parseFloat(current?.fault?.delay?.fixedDelay ?? "0") || 0,
    delayPercent: current?.fault?.delay?.percentage?.value ?? 0,
    abortStatus: current?.fault?.abort?.httpStatus ?? 503,
    abortPercent: current?.fault?.abort?.percentage?.value ?? 0,
  };
}

/** What somebody wants who began with `before` and finds `after`: what was touched stays, the rest follows. */
export function rebased(wanted: Settings, before: Settings, after: Settings): Settings {
  const touched = Object.entries(wanted).filter(([field, value]) => JSON.stringify(value) !== JSON.stringify(before[field as keyof Settings]));
  return { ...after, ...Object.fromEntries(touched) };
}

/** The VirtualService with these settings; everything that they do not speak of stays as it was. */
export function withSettings(name: string, namespace: string, routes: Resource | null, wanted: Settings): Resource {
  const base: Resource = routes
    ? structuredClone(routes)
    : { apiVersion: "networking.istio.io/v1", kind: "VirtualService", metadata: { name, namespace }, spec: { hosts: [name], http: [] } };
  base.spec.http ??= [];
  let rule = fallback(base);
  if (!rule) {
    rule = { route: [{ destination: { host: name } }] };
    base.spec.http.push(rule);
  }
  const chosen = Object.entries(wanted.weights).filter(([, weight]) => weight > 0);
  if (chosen.length > 0) {
    const port = rule.route?.[0]?.destination?.port;
    rule.route = chosen.map(([subset, weight]) => ({
      destination: { host: rule.route?.[0]?.destination?.host ?? name, ...(port && { port }), subset },
      ...(chosen.length > 1 && { weight }),
    }));
  }
  assign(rule, "timeout", wanted.timeout.trim() || undefined);
  const delay = wanted.delayPercent > 0 && wanted.delaySeconds > 0
    ? { percentage: { value: wanted.delayPercent }, fixedDelay: `${wanted.delaySeconds}s` }
    : undefined;
  const abort = wanted.abortPercent > 0 ? { percentage: { value: wanted.abortPercent }, httpStatus: wanted.abortStatus } : undefined;
  assign(rule, "fault", delay || abort ? { ...(delay && { delay }), ...(abort && { abort }) } : undefined);
  return base;
}

/** The policy that lets only these identities call, or nothing where everybody may. */
export function onlyCallers(name: string, namespace: string, selector: Record<string, string>, allowed: string[] | null): Resource | null {
  if (allowed === null) return null;
  return {
    apiVersion: "security.istio.io/v1",
    kind: "AuthorizationPolicy",
    metadata: { name: `${name}-callers`, namespace },
    spec: { selector: { matchLabels: selector }, action: "ALLOW", ...(allowed.length > 0 && { rules: [{ from: [{ source: { principals: allowed } }] }] }) },
  };
}

export const allowedBy = (policy: Resource | null): string[] | null =>
  policy === null ? null : (policy.spec.rules ?? []).flatMap((r: any) => (r.from ?? []).flatMap((f: any) => f.source?.principals ?? []));

function assign(target: any, field: string, value: unknown): void {
  if (value === undefined) delete target[field];
  else target[field] = value;
}

/** Lines that go and lines that come, in order: the longest common subsequence stays. */
export function difference(before: string, after: string): { sign: " " | "-" | "+"; line: string }[] {
  const a = before === "" ? [] : before.trimEnd().split("\n");
  const b = after === "" ? [] : after.trimEnd().split("\n");
  const common = Array.from({ length: a.length + 1 }, () => new Array<number>(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i]![j] = a[i] === b[j] ? common[i + 1]![j + 1]! + 1 : Math.max(common[i + 1]![j]!, common[i]![j + 1]!);
    }
  }
  const lines: { sign: " " | "-" | "+"; line: string }[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      lines.push({ sign: " ", line: a[i]! });
      i++;
      j++;
    } else if (j < b.length && (i === a.length || common[i]![j + 1]! > common[i + 1]![j]!)) {
      lines.push({ sign: "+", line: b[j++]! });
    } else {
      lines.push({ sign: "-", line: a[i++]! });
    }
  }
  return lines;
}
