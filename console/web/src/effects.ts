// What a change of a resource means for the requests that flow now, in words. Pure: both states and the edges in.

import type { Edge, Resource } from "./api";
import { groupBy, perSecond } from "./figures";

/** What a change means. `bad` is what somebody will notice. */
export interface Effect {
  tone: "info" | "warn" | "bad";
  text: string;
}

const info = (text: string): Effect => ({ tone: "info", text });
const warn = (text: string): Effect => ({ tone: "warn", text });
const bad = (text: string): Effect => ({ tone: "bad", text });

/** The edges of the graph, and the seconds in which they were counted. */
interface Flow {
  edges: Edge[];
  seconds: number;
}

type Judge = (before: Resource | null, after: Resource | null, flow: Flow) => Effect[];

/** From one state to another; no state where there is no resource. */
export function effectsOf(before: Resource | null, after: Resource | null, edges: Edge[], seconds: number): Effect[] {
  const of = after ?? before;
  if (!of || same(before?.spec, after?.spec)) return [info("Nothing changes for any request")];
  const judge = JUDGES[of.kind];
  const found = judge ? judge(before, after, { edges, seconds }) : [];
  const told = [...new Map(found.map((effect) => [effect.text, effect])).values()];
  return told.length > 0 ? told : [info(judge ? UNSAID : `What a ${of.kind} does to requests is not worked out here: its YAML says what changes`)];
}

const UNSAID = "What changes has no words here: see the YAML";

const JUDGES: Record<string, Judge> = {
  VirtualService: routes,
  DestinationRule: rule,
  AuthorizationPolicy: authorization,
  PeerAuthentication: authentication,
};

const same = (a: unknown, b: unknown): boolean => JSON.stringify(a ?? null) === JSON.stringify(b ?? null);
const fqdn = (host: string, namespace: string): string => (host.includes(".") || host === "*" ? host : `${host}.${namespace}.svc.cluster.local`);
const count = (edges: Edge[]): number => edges.reduce((n, e) => n + Object.values(e.requests).reduce((a, b) => a + b, 0), 0);
const rateOf = (edges: Edge[], seconds: number): number => count(edges) / Math.max(seconds, 0.001);
const percent = (part: number): string => `${(100 * part).toFixed(0)} %`;
const list = (words: string[]): string => words.join(", ");
/** What is only in one of two lists. */
const without = <T>(a: T[], b: T[]): T[] => a.filter((one) => !b.some((other) => same(one, other)));

// VirtualService

/** Who a rule is for: `header end-user is jason`. Nothing where it is for everybody. */
export function matchWords(rule: any): string {
  const one = (match: any): string => {
    const words: string[] = [];
    const text = (what: string, m: any) => m && words.push(stringMatch(what, m, match.ignoreUriCase === true && what === "path"));
    text("path", match.uri);
    text("scheme", match.scheme);
    text("method", match.method);
    text("authority", match.authority);
    for (const [name, m] of Object.entries(match.headers ?? {})) text(`header ${name}`, m ?? {});
    for (const [name, m] of Object.entries(match.withoutHeaders ?? {})) words.push(`not ${stringMatch(`header ${name}`, m ?? {})}`);
    for (const [name, m] of Object.entries(match.queryParams ?? {})) text(`parameter ${name}`, m ?? {});
    if (match.port) words.push(`port ${match.port}`);
    if (match.sniHosts) words.push(`server name ${list(match.sniHosts)}`);
    if (match.destinationSubnets) words.push(`to ${list(match.destinationSubnets)}`);
    if (match.sourceLabels) words.push(`from ${list(Object.entries(match.sourceLabels).map(([k, v]) => `${k}=${v}`))}`);
    if (match.sourceNamespace) words.push(`from namespace ${match.sourceNamespace}`);
    if (match.gateways) words.push(`at ${list(match.gateways)}`);
    return words.join(" and ") || "anything";
  };
  return (rule.match ?? []).map(one).join(" or ");
}

function stringMatch(what: string, m: any, anyCase = false): string {
  const how = anyCase ? " in any case" : "";
  if (m.exact !== undefined) return `${what} is ${m.exact}${how}`;
  if (m.prefix !== undefined) return `${what} begins with ${m.prefix}${how}`;
  if (m.regex !== undefined) return `${what} matches ${m.regex}`;
  return `${what} is there`;
}

interface Target {
  host: string;
  subset?: string;
  share: number;
}

function targets(rule: any): Target[] {
  const all: any[] = rule?.route ?? [];
  const sum = all.reduce((n, t) => n + (t.weight ?? 0), 0);
  return all.map((t) => ({ host: t.destination?.host ?? "", subset: t.destination?.subset, share: sum > 0 ? (t.weight ?? 0) / sum : 1 / all.length }));
}

const named = (t: { host: string; subset?: string }): string => `${t.host.split(".")[0]}${t.subset ? ` ${t.subset}` : ""}`;
const targetWords = (rule: any): string => list(targets(rule).map((t) => (rule.route.length > 1 ? `${percent(t.share)} to ${named(t)}` : named(t))));
const isMatched = (rule: any): boolean => (rule.match ?? []).length > 0;
const label = (rule: any): string => (rule.name ? `${rule.name} (${matchWords(rule) || "every request"})` : matchWords(rule) || "every request");

/** Rules of two lists that are the same one: by name, by match, or by all but the match. */
function pairs(before: any[], after: any[]): { before: any | null; after: any | null }[] {
  const left = [...before];
  const take = (is: (one: any) => boolean): any | null => {
    const at = left.findIndex(is);
    return at < 0 ? null : left.splice(at, 1)[0];
  };
  const rest = ({ match: _, name: __, ...others }: any) => others;
  const found = new Map<any, any>();
  const attempts: ((a: any, b: any) => boolean)[] = [
    (a, b) => same(a, b),
    (a, b) => a.name !== undefined && a.name === b.name,
    (a, b) => same(a.match ?? [], b.match ?? []),
    (a, b) => same(rest(a), rest(b)),
  ];
  for (const alike of attempts) {
    for (const one of after) {
      if (found.has(one)) continue;
      const its = take((other) => alike(one, other));
      if (its) found.set(one, its);
    }
  }
  return [...after.map((one) => ({ before: found.get(one) ?? null, after: one })), ...left.map((one) => ({ before: one, after: null }))];
}

function routes(before: Resource | null, after: Resource | null, { edges, seconds }: Flow): Effect[] {
  const of = (after ?? before)!;
  const namespace = of.metadata.namespace;
  const hosts = (r: Resource | null): string[] => r?.spec.hosts ?? [];
  const gateways = (r: Resource | null): string[] => (r ? r.spec.gateways ?? ["mesh"] : []);
  const [was, will]: [any[], any[]] = [before?.spec.http ?? [], after?.spec.http ?? []];
  const effects: Effect[] = [];

  if (before && after) {
    for (const host of without(hosts(after), hosts(before))) effects.push(warn(`Its rules hold for ${host} from now on`));
    for (const host of without(hosts(before), hosts(after))) effects.push(warn(`Its rules no longer hold for ${host}`));
    for (const gateway of without(gateways(after), gateways(before))) effects.push(warn(`Its rules hold ${place(gateway)} from now on`));
    for (const gateway of without(gateways(before), gateways(after))) effects.push(gateway === "mesh" ? warn("Its rules no longer hold between workloads") : bad(`Gateway ${gateway} answers 404 for it`));
  }
  if (!after) {
    const mesh = gateways(before).includes("mesh");
    if (mesh) effects.push(info(`No rule steers requests for ${list(hosts(before))}: every replica of every version gets its share`));
    for (const gateway of gateways(before).filter((g) => g !== "mesh")) effects.push(bad(`Gateway ${gateway} answers 404 where no other route is for ${list(hosts(before))}`));
  }

  const called = new Set([...hosts(before), ...hosts(after), ...[...was, ...will].flatMap(targets).map((t) => t.host)].map((host) => fqdn(host, namespace)));
  const its = edges.filter((e) => called.has(e.service));
  let stay = 0;
  for (const pair of pairs(was, will)) {
    if (same(pair.before, pair.after)) {
      stay += isMatched(pair.after) ? 1 : 0;
      continue;
    }
    const own = new Set([...hosts(before), ...hosts(after)].map((host) => fqdn(host, namespace)));
    effects.push(...ruleEffects(pair.before, pair.after, { its, seconds, namespace, own, isFirst: !before, isLast: !after }));
  }
  const order = (rules: any[], others: any[]) => rules.filter((r) => others.some((o) => same(o, r))).map((r) => JSON.stringify(r));
  if (!same(order(was, will), order(will, was))) effects.push(warn("Rules change places: the first that matches a request counts"));
  if (after && will.length > 0 && will.every(isMatched) && !(was.length > 0 && was.every(isMatched))) {
    effects.push(bad("Requests that no rule matches are answered 404"));
  }
  for (const kind of ["tls", "tcp"] as const) {
    const now: any[] = after?.spec[kind] ?? [];
    if (after && !same(before?.spec[kind] ?? [], now)) {
      const told = now.map((rule) => `${matchWords(rule) || "every connection"} to ${targetWords(rule)}`).join("; ");
      effects.push(warn(`${kind.toUpperCase()} connections: ${told || "no rule of their own"}. Those that are open stay as they are`));
    }
  }
  if (stay > 0 && effects.length > 0 && will.some((r) => !isMatched(r))) {
    effects.push(info(stay === 1 ? "One rule with a match comes first and stays as it was" : `${stay} rules with matches come first and stay as they were`));
  }
  return effects;
}

const place = (gateway: string): string => (gateway === "mesh" ? "between workloads" : `at gateway ${gateway}`);

interface Around {
  its: Edge[];
  seconds: number;
  namespace: string;
  /** The hosts that the resource is for. */
  own: Set<string>;
  /** The resource is new, or goes. */
  isFirst: boolean;
  isLast: boolean;
}

/** What a changed, new or removed rule means. Rates are known only of rules that are for every request. */
function ruleEffects(before: any | null, after: any | null, around: Around): Effect[] {
  const effects: Effect[] = [];
  const forAll = !isMatched(after ?? before);
  const head = forAll ? "" : `${label(after ?? before)}: `;
  const say = (tone: (text: string) => Effect, text: string) => effects.push(tone(head + text));
  const all = rateOf(around.its, around.seconds);
  const about = (part: number) => (forAll ? `: about ${perSecond(all * part)}` : "");

  if (!after) {
    // What else it said goes for them as well: the next rule has its own.
    if (!around.isLast) return [warn(`The rule for ${label(before)} goes: such requests meet the next rule that matches them`)];
    if (!forAll) effects.push(info(`${label(before)}: such requests are no longer told apart`));
  } else if (before && !same(before.match ?? [], after.match ?? [])) {
    effects.push(warn(`The rule for ${matchWords(before) || "every request"} is for ${matchWords(after) || "every request"} from now on`));
  }
  if (after && (!before || !same(before.route, after.route))) {
    if (forAll) effects.push(...shares(before, after, around));
    else if (targets(after).length > 0) say(info, `${before ? "" : "new; "}such requests go to ${targetWords(after)}${before?.route ? ` instead of ${targetWords(before)}` : ""}`);
  }
  const [a, b] = [before ?? {}, after ?? {}];
  if (!same(a.redirect, b.redirect)) say(b.redirect ? bad : info, b.redirect ? `such requests are redirected to ${redirectWords(b.redirect)} and arrive nowhere` : "such requests are no longer redirected");
  if (!same(a.directResponse, b.directResponse)) say(b.directResponse ? bad : info, b.directResponse ? `such requests are answered ${b.directResponse.status} by the caller's proxy and never arrive${about(1)}` : "such requests are answered by the service again");
  if (!same(a.rewrite, b.rewrite)) say(warn, b.rewrite ? `paths or hosts are rewritten: ${pairsOf(b.rewrite)}` : "paths and hosts stay as they come");
  if (!same(a.timeout, b.timeout)) {
    if (b.timeout) say(warn, `A call that takes longer than ${b.timeout} is answered 504`);
    else say(info, "Calls may take as long as they do");
  }
  if (!same(a.retries, b.retries)) say(info, retryWords(b.retries));
  effects.push(...faults(a.fault ?? {}, b.fault ?? {}, head, about));
  const copies = (rule: any): any[] => rule.mirrors ?? (rule.mirror ? [{ destination: rule.mirror, percentage: rule.mirrorPercentage }] : []);
  if (!same(copies(a), copies(b))) {
    for (const copy of copies(b)) {
      const part = (copy.percentage?.value ?? 100) / 100;
      say(warn, `${percent(part)} of the requests go to ${named(copy.destination)} as well, whose answers nobody sees${about(part)}`);
    }
    if (copies(b).length === 0) say(info, "Requests are no longer copied");
  }
  if (!same(a.headers, b.headers)) say(info, "Headers are changed in another way than before");
  if (!same(a.corsPolicy, b.corsPolicy)) say(info, b.corsPolicy ? "Browsers are told which other origins may call (CORS)" : "Browsers are no longer told which other origins may call (CORS)");
  return effects;
}

/** Who gets which share of all requests, with what that is in requests. */
function shares(before: any | null, after: any, { its, seconds, namespace, own, isFirst }: Around): Effect[] {
  const will = targets(after);
  if (will.length === 0) return [];
  const host = will[0]!.host;
  if (will.length === 1 && !will[0]!.subset && own.has(fqdn(host, namespace))) {
    return before ? [info(`Every replica of every version of ${named({ host })} gets its share`)] : [];
  }
  const all = rateOf(its, seconds);
  const key = (t: { host: string; subset?: string }) => `${fqdn(t.host, namespace)}/${t.subset ?? ""}`;
  const known = new Map<string, Target>();
  for (const t of targets(before)) known.set(key(t), { ...t, share: 0 });
  // Where no rule chose a version, all were called: those that were seen.
  if (isFirst && will.some((t) => t.subset)) {
    for (const e of its.filter((e) => e.service === fqdn(host, namespace) && e.destination.version)) known.set(key({ host, subset: e.destination.version }), { host, subset: e.destination.version, share: 0 });
  }
  for (const t of will) known.set(key(t), { ...t, share: (known.get(key(t))?.share ?? 0) + t.share });
  return [...known.values()].sort((a, b) => named(a).localeCompare(named(b))).map((t) => {
    const now = rateOf(its.filter((e) => e.service === fqdn(t.host, namespace) && (!t.subset || e.destination.version === t.subset)), seconds);
    return info(`${named(t)} gets ${percent(t.share)} of the requests: ${perSecond(now)} now, about ${perSecond(all * t.share)} then`);
  });
}

const redirectWords = (redirect: any): string => [redirect.scheme && `${redirect.scheme}:`, redirect.authority, redirect.uri].filter(Boolean).join(" ") || "themselves";
const pairsOf = (object: any): string => list(Object.entries(object).map(([k, v]) => `${k} ${typeof v === "object" ? JSON.stringify(v) : v}`));

function retryWords(retries: any): string {
  if (!retries) return "A request that fails is tried again as the mesh does by default: twice, when no replica took it";
  if (retries.attempts === 0) return "No request is tried again";
  const each = retries.perTryTimeout ? `, each for ${retries.perTryTimeout} at most` : "";
  const on = retries.retryOn ? `, on ${retries.retryOn}` : "";
  return `A request that fails is tried up to ${retries.attempts ?? 2} more times${each}${on}`;
}

function faults(before: any, after: any, head: string, about: (part: number) => string): Effect[] {
  const effects: Effect[] = [];
  const part = (fault: any): number => (fault ? (fault.percentage?.value ?? fault.percent ?? 100) / 100 : 0);
  const whole = (fault: any): string => `${Number((100 * part(fault)).toFixed(2))} %`;
  if (!same(before.delay, after.delay) && part(after.delay) > 0) {
    effects.push(bad(`${head}${whole(after.delay)} of the requests wait ${seconds_(after.delay.fixedDelay)} before they are sent${about(part(after.delay))}`));
  }
  if (!same(before.abort, after.abort) && part(after.abort) > 0) {
    const status = after.abort.httpStatus ?? `with gRPC status ${after.abort.grpcStatus}`;
    effects.push(bad(`${head}${whole(after.abort)} of the requests are answered ${status} by the caller's proxy and never arrive${about(part(after.abort))}`));
  }
  if ((part(before.delay) > 0 && part(after.delay) === 0) || (part(before.abort) > 0 && part(after.abort) === 0)) effects.push(info(`${head}Faults are no longer injected`));
  return effects;
}

/** `7s` is written `7 s`. */
const seconds_ = (duration: string | undefined): string => (duration ?? "0s").replace(/^([\d.]+)(ms|s|m|h)$/, "$1 $2");

// DestinationRule

function rule(before: Resource | null, after: Resource | null, { edges, seconds }: Flow): Effect[] {
  const of = (after ?? before)!;
  const host: string = of.spec.host ?? "";
  const [name, service] = [host.split(".")[0]!, fqdn(host, of.metadata.namespace)];
  const its = edges.filter((e) => e.service === service);
  const effects: Effect[] = [];
  if (before && after && before.spec.host !== after.spec.host) effects.push(bad(`It no longer speaks of ${before.spec.host}, but of ${after.spec.host}: routes to subsets of ${before.spec.host} are answered 503`));
  const [was, will]: [any[], any[]] = [before?.spec.subsets ?? [], after?.spec.subsets ?? []];
  const labels = (subset: any): string => list(Object.entries(subset.labels ?? {}).map(([k, v]) => `${k}=${v}`)) || "every replica";
  for (const subset of will) {
    const old = was.find((s) => s.name === subset.name);
    if (!old) effects.push(info(`Routes may name subset ${subset.name} (${labels(subset)})`));
    else if (!same(old.labels, subset.labels)) effects.push(warn(`Subset ${subset.name} is ${labels(subset)} instead of ${labels(old)}`));
  }
  for (const subset of was.filter((s) => !will.some((other) => other.name === s.name))) {
    const now = rateOf(its.filter((e) => e.destination.version === subset.name), seconds);
    effects.push(bad(`Routes that name subset ${subset.name} of ${name} are answered 503${now > 0 ? `: it gets ${perSecond(now)} now` : ""}`));
  }
  effects.push(...policyEffects(before?.spec.trafficPolicy, after?.spec.trafficPolicy, `${name}: `));
  for (const subset of will) {
    const old = was.find((s) => s.name === subset.name);
    effects.push(...policyEffects(old?.trafficPolicy, subset.trafficPolicy, `${name} ${subset.name}: `));
  }
  if (!same(before?.spec.workloadSelector, after?.spec.workloadSelector) && after) {
    const chosen = after.spec.workloadSelector?.matchLabels;
    effects.push(warn(chosen ? `It holds for callers with ${labels({ labels: chosen })} alone` : "It holds for every caller"));
  }
  if (!same(before?.spec.exportTo, after?.spec.exportTo) && after) effects.push(warn(`It holds for callers in ${list(after.spec.exportTo ?? ["every namespace"])}`));
  return effects;
}

function policyEffects(before: any, after: any, head: string): Effect[] {
  const [a, b] = [before ?? {}, after ?? {}];
  const effects: Effect[] = [];
  const changed = (field: string, tell: (now: any) => Effect[]) => {
    if (!same(a[field], b[field])) effects.push(...tell(b[field]).map((e) => ({ ...e, text: head + e.text })));
  };
  changed("loadBalancer", (lb) => [info(balancerWords(lb))]);
  changed("connectionPool", poolEffects);
  changed("outlierDetection", (o) => [o ? warn(outlierWords(o)) : info("no replica is taken out for failing")]);
  changed("tls", (tls) => [tlsEffect(tls)]);
  changed("retryBudget", (budget) => [info(budget ? `at most ${budget.percent ?? 20} % of the requests under way may be retries` : "retries have no budget of their own")]);
  const ports = (policy: any): any[] => policy.portLevelSettings ?? [];
  for (const port of new Set([...ports(a), ...ports(b)].map((p) => p.port?.number))) {
    const of = (policy: any) => ports(policy).find((p) => p.port?.number === port);
    effects.push(...policyEffects(of(a), of(b), `${head}port ${port}: `));
  }
  return effects;
}

function balancerWords(lb: any): string {
  const hash = lb?.consistentHash;
  if (hash) {
    const by = hash.httpHeaderName ? `header ${hash.httpHeaderName}` : hash.httpCookie ? `cookie ${hash.httpCookie.name}` : hash.httpQueryParameterName ? `parameter ${hash.httpQueryParameterName}` : "source address";
    return `requests with the same ${by} go to the same replica`;
  }
  const locality = lb?.localityLbSetting ? "; where the replicas are counts" : "";
  const words: Record<string, string> = {
    ROUND_ROBIN: "replicas get requests in turn",
    RANDOM: "replicas get requests at random",
    PASSTHROUGH: "requests go to the address that the caller chose",
  };
  return (words[lb?.simple ?? ""] ?? "of two replicas the one with fewer requests under way gets each") + locality;
}

function poolEffects(pool: any): Effect[] {
  const [tcp, http] = [pool?.tcp ?? {}, pool?.http ?? {}];
  const effects: Effect[] = [];
  if (tcp.maxConnections) effects.push(warn(`each caller opens at most ${tcp.maxConnections} connections`));
  if (http.http1MaxPendingRequests) effects.push(warn(`where more than ${http.http1MaxPendingRequests} requests wait for a connection, the rest are answered 503`));
  if (http.http2MaxRequests) effects.push(warn(`where more than ${http.http2MaxRequests} requests are under way, the rest are answered 503`));
  if (http.maxRetries) effects.push(info(`at most ${http.maxRetries} retries are under way at once`));
  if (tcp.connectTimeout) effects.push(info(`connecting may take ${tcp.connectTimeout}`));
  if (effects.length === 0) effects.push(info(pool ? "its connections are kept in another way than before" : "connections and requests are not limited"));
  return effects;
}

function outlierWords(o: any): string {
  const errors = o.consecutiveGatewayErrors ? `${o.consecutiveGatewayErrors} gateway errors` : `${o.consecutive5xxErrors ?? 5} errors`;
  return `a replica that answers ${errors} one after the other gets nothing for ${o.baseEjectionTime ?? "30s"}; at most ${o.maxEjectionPercent ?? 10} % of the replicas at once`;
}

function tlsEffect(tls: any): Effect {
  switch (tls?.mode) {
    case "DISABLE": return bad("calls leave in plaintext: who takes mutual TLS alone refuses them");
    case "SIMPLE": return warn("calls leave by TLS without a certificate of the caller");
    case "MUTUAL": return warn("calls leave by TLS with the certificate that is named here");
    case "ISTIO_MUTUAL": return info("calls leave by mutual TLS, always");
    default: return info("calls leave by mutual TLS wherever the other side can");
  }
}

// Policies

/** The calls that a selector of a policy concerns: nothing selects all of the namespace, or of the mesh from its root. */
function concerned(policy: Resource, edges: Edge[]): Edge[] {
  const wanted = Object.entries((policy.spec.selector?.matchLabels ?? {}) as Record<string, string>);
  const { namespace } = policy.metadata;
  const has = (edge: Edge, [label, value]: [string, string]): boolean =>
    label === "app" ? edge.destination.app === value : label === "version" ? edge.destination.version === value : true;
  return edges.filter((e) => (e.destination.namespace === namespace || namespace === ROOT_NAMESPACE) && wanted.every((label) => has(e, label)));
}

const ROOT_NAMESPACE = "istio-system";

/** `cluster.local/ns/default/sa/reviews`: how policies write identities. */
export const principal = (identity: string): string => identity.replace(/^spiffe:\/\//, "");

export interface Caller {
  principal: string | null;
  namespace: string;
  names: string;
  rate: number;
  tcp: boolean;
}

/** Who calls, by identity, with what they send. Callers without a certificate have none. */
export function callers(its: Edge[], seconds: number): Caller[] {
  const found = groupBy(its.flatMap((edge) => (edge.principals.length > 0 ? edge.principals : [null]).map((p) => ({ p, edge }))), ({ p }) => p);
  return [...found].map(([p, of]) => ({
    principal: p === null ? null : principal(p),
    namespace: (p && /\/ns\/([^/]+)\//.exec(p)?.[1]) ?? of[0]!.edge.source.namespace,
    names: [...new Set(of.map(({ edge }) => edge.source.name))].join(", "),
    rate: rateOf(of.map(({ edge }) => edge), seconds),
    tcp: of.every(({ edge }) => edge.protocol === "tcp"),
  }));
}

type Answer = "yes" | "no" | "some";

const fits = (pattern: string, text: string): boolean =>
  pattern === "*" ? text !== "" : pattern.endsWith("*") ? text.startsWith(pattern.slice(0, -1)) : pattern.startsWith("*") ? text.endsWith(pattern.slice(1)) : pattern === text;

/** Whether requests of a caller match a policy's rules: some do where it depends on more than who calls. */
function matches(policy: Resource, caller: Caller): Answer {
  const source = (s: any): Answer => {
    const is = (patterns: string[] | undefined, text: string | null) => patterns === undefined || (text !== null && patterns.some((p) => fits(p, text)));
    const isNot = (patterns: string[] | undefined, text: string | null) => patterns === undefined || text === null || !patterns.some((p) => fits(p, text));
    const space = caller.principal === null ? null : caller.namespace;
    const known = is(s.principals, caller.principal) && isNot(s.notPrincipals, caller.principal) && is(s.namespaces, space) && isNot(s.notNamespaces, space);
    const others = Object.keys(s).some((field) => !["principals", "notPrincipals", "namespaces", "notNamespaces"].includes(field));
    return !known ? "no" : others ? "some" : "yes";
  };
  const best = (answers: Answer[]): Answer => (answers.includes("yes") ? "yes" : answers.includes("some") ? "some" : "no");
  const one = (r: any): Answer => {
    const from: Answer = (r.from ?? []).length > 0 ? best(r.from.map((f: any) => source(f.source ?? {}))) : "yes";
    return from === "yes" && ((r.to ?? []).length > 0 || (r.when ?? []).length > 0) ? "some" : from;
  };
  return best((policy.spec.rules ?? []).map(one));
}

/** What becomes of a caller by this policy alone. */
function fate(policy: Resource | null, caller: Caller): "let in" | "refused" | "some refused" {
  if (!policy) return "let in";
  const action = policy.spec.action ?? "ALLOW";
  const answer = matches(policy, caller);
  if (action === "ALLOW") return answer === "yes" ? "let in" : answer === "some" ? "some refused" : "refused";
  if (action === "DENY") return answer === "yes" ? "refused" : answer === "some" ? "some refused" : "let in";
  return "let in";
}

const restWords = (policy: Resource): string => {
  const words = (policy.spec.rules ?? []).flatMap((r: any) => [
    ...(r.to ?? []).map(({ operation: o = {} }: any) => Object.entries(o).map(([field, values]) => `${field} ${list(values as string[])}`).join(" and ")),
    ...(r.when ?? []).map((w: any) => `${w.key} ${w.values ? list(w.values) : `not ${list(w.notValues ?? [])}`}`),
  ]);
  return list(words.filter((w: string) => w !== "")) || "its rules";
};

function authorization(before: Resource | null, after: Resource | null, { edges, seconds }: Flow): Effect[] {
  const effects: Effect[] = [];
  const action: string = (after ?? before)!.spec.action ?? "ALLOW";
  if (after && action === "AUDIT") return [info("Requests that match are noted, and none is refused")];
  if (after && before && (before.spec.action ?? "ALLOW") !== action) effects.push(warn(`What it did (${before.spec.action ?? "ALLOW"}) ends; from now on it is ${action}`));
  const others = Object.entries((after ?? before)!.spec.selector?.matchLabels ?? {}).filter(([label]) => label !== "app" && label !== "version");
  if (others.length > 0) effects.push(warn(`It is for workloads with ${list(others.map(([k, v]) => `${k}=${v}`))} alone: who they are is not known here, so that fewer callers may be concerned than are named`));
  const ahead = effects.length;
  const its = new Set([before, after].flatMap((policy) => (policy ? concerned(policy, edges) : [])));
  const under = (policy: Resource | null, edge: Edge) => (policy && concerned(policy, [edge]).length > 0 ? policy : null);
  // Where the selector changes, calls are concerned by one state and not by the other.
  const groups = groupBy([...its], (edge) => `${under(before, edge) !== null}/${under(after, edge) !== null}`);
  for (const group of groups.values()) {
    const [old, now] = [under(before, group[0]!), under(after, group[0]!)];
    for (const caller of callers(group, seconds)) {
      const [was, will] = [fate(old, caller), fate(now, caller)];
      const who = `${caller.names} (${caller.principal ?? "no identity"})`;
      const how = caller.tcp ? "has its connections closed" : "is refused with 403";
      const rate = caller.tcp ? "" : `: ${perSecond(caller.rate)} now`;
      if (will === "refused") effects.push(bad(was === "refused" ? `${who} goes on being refused` : `${who} ${how}${rate}`));
      else if (will === "some refused" && now) effects.push(warn(action === "DENY" ? `${who} is refused where its requests match ${restWords(now)}${rate}` : `${who} is refused but where its requests match ${restWords(now)}${rate}`));
      else if (will === "let in" && was !== "let in") effects.push(info(`${who} is let in, as far as no other policy says otherwise`));
    }
  }
  if (effects.length > ahead) return effects;
  if (!after) effects.push(info(action === "ALLOW" ? "Every caller is let in, as far as no other policy says otherwise" : "Nobody is refused by it any more"));
  else if (action === "ALLOW") effects.push(info("Everybody who called in the last minutes may go on calling; all others are refused"));
  else effects.push(info("Nobody who called in the last minutes is refused altogether"));
  return effects;
}

function authentication(before: Resource | null, after: Resource | null, { edges, seconds }: Flow): Effect[] {
  const of = (after ?? before)!;
  const its = concerned(of, edges);
  const mode = (policy: Resource | null): string => policy?.spec.mtls?.mode ?? "UNSET";
  const effects: Effect[] = [];
  if (before && after && !same(before.spec.selector, after.spec.selector)) effects.push(warn("It holds for other workloads than before"));
  if (mode(before) !== mode(after) || (!before && mode(after) !== "UNSET")) effects.push(...modeEffects(mode(after), its, seconds));
  const ports = (policy: Resource | null): Record<string, any> => policy?.spec.portLevelMtls ?? {};
  for (const port of new Set([...Object.keys(ports(before)), ...Object.keys(ports(after))])) {
    const [was, will] = [ports(before)[port]?.mode ?? "UNSET", ports(after)[port]?.mode ?? "UNSET"];
    // Which calls go to which port is not known here.
    if (was !== will) effects.push(...modeEffects(will, [], seconds).map((e) => ({ ...e, text: `Port ${port}: ${e.text}` })));
  }
  return effects;
}

function modeEffects(mode: string, its: Edge[], seconds: number): Effect[] {
  if (mode === "DISABLE") return [bad("Connections are no longer encrypted, and nobody proves who he is")];
  if (mode === "PERMISSIVE") return [info("Plaintext is taken as well as mutual TLS")];
  if (mode !== "STRICT") return [info("What the namespace or the mesh says holds again: where they say nothing, plaintext is taken as well as mutual TLS")];
  const plain = its.filter((e) => e.mutualTls === false);
  if (plain.length === 0) return [info(its.length > 0 ? "Everybody who called in the last minutes uses mutual TLS already; plaintext is refused" : "Plaintext is refused")];
  return plain.map((e) => bad(`${e.source.name} calls in plaintext and is refused: ${perSecond(rateOf([e], seconds))} now`));
}
