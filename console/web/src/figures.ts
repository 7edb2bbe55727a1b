// Sums over edges, and how figures are written. Pure.

import type { Edge, Workload } from "./api";

export interface Summary {
  rate: number;
  errorPercent: number;
  p50Ms: number | null;
  p99Ms: number | null;
  bytesRate: number;
  mutualTls: boolean | null;
}

/** Rates add up; a percentile of several edges is the one of the edge that carries most. */
export function sum(edges: Edge[]): Summary {
  const rate = edges.reduce((n, e) => n + e.rate, 0);
  const failed = edges.reduce((n, e) => n + (e.rate * e.errorPercent) / 100, 0);
  const main = edges.reduce<Edge | null>((best, e) => (best === null || e.rate > best.rate ? e : best), null);
  const known = edges.map((e) => e.mutualTls).filter((m) => m !== null);
  return {
    rate,
    errorPercent: rate > 0 ? (100 * failed) / rate : 0,
    p50Ms: main?.p50Ms ?? null,
    p99Ms: edges.reduce<number | null>((worst, e) => (e.p99Ms === null ? worst : Math.max(worst ?? 0, e.p99Ms)), null),
    bytesRate: edges.reduce((n, e) => n + e.bytesRate, 0),
    mutualTls: known.length === 0 ? null : known.every(Boolean),
  };
}

/** `reviews.default` of `reviews.default.svc.cluster.local`. */
export function shortHost(host: string): string {
  return host.replace(/\.svc\.[a-z0-9.-]+$/, "");
}

export function services(edges: Edge[]): Map<string, Edge[]> {
  const found = new Map<string, Edge[]>();
  for (const edge of edges) {
    if (!edge.service || edge.service === "unknown") continue;
    found.set(edge.service, [...(found.get(edge.service) ?? []), edge]);
  }
  return new Map([...found].sort(([a], [b]) => a.localeCompare(b)));
}

export const id = (w: Workload): string => `${w.namespace}/${w.name}`;

export const perSecond = (rate: number): string => `${rate >= 100 ? rate.toFixed(0) : rate.toFixed(1)}/s`;

export const milliseconds = (ms: number | null): string =>
  ms === null ? "–" : ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;

export const percent = (p: number): string => (p === 0 ? "0 %" : p < 0.1 ? "<0.1 %" : `${p.toFixed(1)} %`);

export function bytes(rate: number): string {
  const units = ["B/s", "kB/s", "MB/s", "GB/s"];
  let unit = 0;
  while (rate >= 1000 && unit < units.length - 1) {
    rate /= 1000;
    unit += 1;
  }
  return `${rate.toFixed(rate >= 100 || unit === 0 ? 0 : 1)} ${units[unit]}`;
}

export const health = (errorPercent: number): "good" | "warn" | "bad" =>
  errorPercent >= 5 ? "bad" : errorPercent > 0.1 ? "warn" : "good";
