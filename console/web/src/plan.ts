// What a lever does to a resource. Pure: a resource in, a changed copy out.

import type { Edge, Resource } from "./api";
import { groupBy, perSecond } from "./figures";

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

/** What a change means, in words. `bad` is what somebody will notice. */
export interface Effect {
  tone: "info" | "warn" | "bad";
  text: string;
}

const effect = (tone: Effect["tone"], text: string): Effect => ({ tone, text });

const rateOf = (edges: Edge[], seconds: number): number =>
  edges.reduce((n, e) => n + Object.values(e.requests).reduce((a, b) => a + b, 0), 0) / Math.max(seconds, 0.001);

/** What moving the levers of routes means for the requests that flow now. */
export function routeEffects(name: string, before: Settings, after: Settings, matched: number, its: Edge[], seconds: number): Effect[] {
  const effects: Effect[] = [];
  const all = rateOf(its, seconds);
  const sumOf = (weights: Record<string, number>) => Object.values(weights).reduce((a, b) => a + b, 0);
  const share = (settings: Settings, subset: string) => (settings.weights[subset] ?? 0) / sumOf(settings.weights);
  if (sumOf(after.weights) > 0 && JSON.stringify(before.weights) !== JSON.stringify(after.weights)) {
    for (const subset of Object.keys(after.weights)) {
      const now = rateOf(its.filter((e) => e.destination.version === subset), seconds);
      const will = share(after, subset);
      effects.push(effect("info", `${name} ${subset} gets ${(100 * will).toFixed(0)} % of the requests: ${perSecond(now)} now, about ${perSecond(all * will)} then`));
    }
  }
  if (before.timeout !== after.timeout) {
    effects.push(after.timeout ? effect("warn", `A call that takes longer than ${after.timeout} is answered 504`) : effect("info", "Calls may take as long as they do"));
  }
  const delayed = after.delayPercent > 0 && after.delaySeconds > 0;
  if (delayed && (before.delayPercent !== after.delayPercent || before.delaySeconds !== after.delaySeconds)) {
    effects.push(effect("bad", `${after.delayPercent} % of the requests wait ${after.delaySeconds} s before they are sent: about ${perSecond((all * after.delayPercent) / 100)}`));
  }
  if (after.abortPercent > 0 && (before.abortPercent !== after.abortPercent || before.abortStatus !== after.abortStatus)) {
    effects.push(effect("bad", `${after.abortPercent} % of the requests are answered ${after.abortStatus} by the caller's proxy and never arrive: about ${perSecond((all * after.abortPercent) / 100)}`));
  }
  if ((before.delayPercent > 0 && !delayed) || (before.abortPercent > 0 && after.abortPercent === 0)) effects.push(effect("info", "Faults are no longer injected"));
  if (matched > 0) effects.push(effect("info", `${matched === 1 ? "One rule with a match comes" : `${matched} rules with matches come`} first and stay${matched === 1 ? "s" : ""} as it was`.replace("stay as it was", "stay as they were")));
  return effects;
}

export const isMatched = (routes: Resource | null): number => (routes?.spec.http ?? []).filter((r: any) => r.match?.length > 0).length;

/** `cluster.local/ns/default/sa/reviews`: how policies write identities. */
export const principal = (identity: string): string => identity.replace(/^spiffe:\/\//, "");

/** Who calls, by identity, with what they send. Callers without a certificate have none. */
export function callers(its: Edge[], seconds: number): { principal: string | null; names: string; rate: number }[] {
  const found = groupBy(its.flatMap((edge) => (edge.principals.length > 0 ? edge.principals : [null]).map((p) => ({ p, edge }))), ({ p }) => p);
  return [...found].map(([p, of]) => ({
    principal: p === null ? null : principal(p),
    names: [...new Set(of.map(({ edge }) => edge.source.name))].join(", "),
    rate: rateOf(of.map(({ edge }) => edge), seconds),
  }));
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

export function callerEffects(allowed: string[] | null, its: Edge[], seconds: number): Effect[] {
  if (allowed === null) return [effect("info", "Every caller is let in, as far as no other policy says otherwise")];
  const seen = callers(its, seconds);
  const out = seen.filter((c) => c.principal === null || !allowed.includes(c.principal));
  const refused = out.map((c) => effect("bad", `${c.names} (${c.principal ?? "no identity"}) is refused with 403: ${perSecond(c.rate)} now`));
  return refused.length > 0 ? refused : [effect("info", "Everybody who called in the last minutes may go on calling; all others are refused")];
}

export function modeEffects(mode: string, its: Edge[], seconds: number): Effect[] {
  if (mode !== "STRICT") return [effect("info", mode === "DISABLE" ? "Connections are no longer encrypted" : "Plaintext is taken as well as mutual TLS")];
  const plain = its.filter((e) => e.mutualTls === false);
  if (plain.length === 0) return [effect("info", "Everybody who called in the last minutes uses mutual TLS already; plaintext is refused")];
  return plain.map((e) => effect("bad", `${e.source.name} calls in plaintext and is refused: ${perSecond(rateOf([e], seconds))} now`));
}

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
