// Sums over edges, and how figures are written. Pure.

import type { Edge, Splitter, Workload } from "./api";

export interface Summary {
  /** How long was counted, in seconds. */
  seconds: number;
  requests: number;
  failed: number;
  errorPercent: number;
  p50Ms: number | null;
  p99Ms: number | null;
  bytes: number;
  opened: number;
  mutualTls: boolean | null;
}

/** In the order of first appearance. */
export function groupBy<T, K>(all: T[], of: (one: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>();
  for (const one of all) groups.set(of(one), [...(groups.get(of(one)) ?? []), one]);
  return groups;
}

const count = (edge: Edge): number => Object.values(edge.requests).reduce((n, more) => n + more, 0);

/** Counts add up, histograms as well: a percentile is that of all requests together. */
export function sum(edges: Edge[], seconds: number): Summary {
  const requests = edges.reduce((n, e) => n + count(e), 0);
  const failed = edges.reduce((n, e) => n + e.failed, 0);
  const known = edges.map((e) => e.mutualTls).filter((m) => m !== null);
  const buckets = histogram(edges);
  return {
    seconds,
    requests,
    failed,
    errorPercent: requests > 0 ? (100 * failed) / requests : 0,
    p50Ms: quantile(buckets, 0.5),
    p99Ms: quantile(buckets, 0.99),
    bytes: edges.reduce((n, e) => n + e.bytes, 0),
    opened: edges.reduce((n, e) => n + e.opened, 0),
    mutualTls: known.length === 0 ? null : known.every(Boolean),
  };
}

function histogram(edges: Edge[]): [number, number][] {
  const counts = new Map<number, number>();
  for (const [bound, n] of edges.flatMap((edge) => edge.buckets)) {
    counts.set(bound ?? Infinity, (counts.get(bound ?? Infinity) ?? 0) + n);
  }
  return [...counts].sort(([a], [b]) => a - b);
}

/** Prometheus' `histogram_quantile`: linear within the bucket that holds the rank. */
export function quantile(buckets: [number, number][], rank: number): number | null {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  const wanted = rank * total;
  let [below, lower] = [0, 0];
  for (const [bound, n] of buckets) {
    if (n >= wanted) {
      return bound === Infinity ? lower : lower + ((bound - lower) * (wanted - below)) / Math.max(n - below, Number.MIN_VALUE);
    }
    [below, lower] = [n, bound];
  }
  return null;
}

/** Requests a second of each response code, the commonest first. */
export function responses(edges: Edge[]): [string, number][] {
  const counts = new Map<string, number>();
  for (const [code, n] of edges.flatMap((edge) => Object.entries(edge.requests))) counts.set(code, (counts.get(code) ?? 0) + n);
  return [...counts].filter(([, n]) => n > 0).sort(([a, m], [b, n]) => n - m || a.localeCompare(b));
}

/** `reviews.default` of `reviews.default.svc.cluster.local`. */
export const shortHost = (host: string): string => host.replace(/\.svc\.[a-z0-9.-]+$/, "");

/** The edges of each service, in the order of their names. */
export function services(edges: Edge[]): Map<string, Edge[]> {
  const named = edges.filter((edge) => edge.service && edge.service !== "unknown");
  return new Map([...groupBy(named, (edge) => edge.service)].sort(([a], [b]) => a.localeCompare(b)));
}

export const id = (w: Workload): string => `${w.namespace}/${w.name}`;

/** What a workload does to traces, and what would mend it. */
export const splits = (by: Splitter): string =>
  `splits traces: ${percent(by.lostPercent)} of its calls leave without the trace headers of the request that they are made for. It should hand on traceparent, tracestate, b3, x-b3-* and x-request-id.`;

export const isIdle = (edge: Edge): boolean => count(edge) === 0 && edge.bytes === 0 && edge.opened === 0;

export const isUnknown = (w: Workload): boolean => w.name === "" || w.name === "unknown";

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** Requests: a rate, or where everything since the beginning is shown, their number. */
export function requests(summary: Summary, total: boolean): string {
  return total ? number.format(summary.requests) : perSecond(summary.requests / Math.max(summary.seconds, 0.001));
}

export const perSecond = (rate: number): string => `${rate >= 100 ? rate.toFixed(0) : rate.toFixed(rate > 0 && rate < 0.095 ? 2 : 1)}/s`;

export const milliseconds = (ms: number | null): string =>
  ms === null ? "–" : ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;

export const percent = (p: number): string => (p === 0 ? "0 %" : p < 0.1 ? "<0.1 %" : p >= 99.95 ? "100 %" : `${p.toFixed(1)} %`);

export function bytes(summary: Summary, total: boolean): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let amount = total ? summary.bytes : summary.bytes / Math.max(summary.seconds, 0.001);
  let unit = 0;
  while (amount >= 1000 && unit < units.length - 1) {
    amount /= 1000;
    unit += 1;
  }
  return `${amount.toFixed(amount >= 100 || unit === 0 ? 0 : 1)} ${units[unit]}${total ? "" : "/s"}`;
}

export type Health = "good" | "warn" | "bad" | "idle";

export const health = (summary: Summary): Health =>
  summary.requests === 0 && summary.bytes === 0 && summary.opened === 0 ? "idle" : summary.errorPercent >= 5 ? "bad" : summary.errorPercent > 0.1 ? "warn" : "good";
