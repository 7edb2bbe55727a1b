// The levers of a service: weights, timeout, faults, mutual TLS. Nothing is written before its YAML was shown.

import { useMemo, useState } from "preact/hooks";
import { type Resource, written } from "./api";
import { Proposal } from "./proposal";
import { settings, type Settings, subsets, withSettings } from "./plan";

interface Props {
  name: string;
  namespace: string;
  routes: Resource | null;
  rule: Resource | null;
  changed: () => void;
}

export function Steer({ name, namespace, routes, rule, changed }: Props) {
  const initial = useMemo(() => settings(routes, rule), [routes, rule]);
  const [wanted, want] = useState<Settings>(initial);
  const [proposal, propose] = useState<{ before: Resource | null; after: Resource } | null>(null);
  useMemo(() => want(initial), [initial]);
  const set = (part: Partial<Settings>) => want({ ...wanted, ...part });
  const number = (label: string, value: number, put: (n: number) => void, max: number, step = 1) => (
    <label>{label}<input type="number" min="0" max={max} step={step} value={value} onInput={(e) => put(Number(e.currentTarget.value))} /></label>
  );
  return (
    <section class="card levers">
      <h2>Steer</h2>
      {subsets(rule).length === 0 && <p class="hint">Weights need subsets: apply a DestinationRule for {name} that names its versions.</p>}
      {Object.entries(wanted.weights).map(([subset, weight]) => (
        <label key={subset} data-subset={subset}>
          {subset}
          <input type="range" min="0" max="100" value={weight} onInput={(e) => set({ weights: { ...wanted.weights, [subset]: Number(e.currentTarget.value) } })} />
          <output>{weight}</output>
        </label>
      ))}
      <label>Timeout<input placeholder="none, or 500ms, 2s" value={wanted.timeout} onInput={(e) => set({ timeout: e.currentTarget.value })} /></label>
      <fieldset>
        <legend>Fault</legend>
        {number("Delay, s", wanted.delaySeconds, (delaySeconds) => set({ delaySeconds }), 60, 0.1)}
        {number("of requests, %", wanted.delayPercent, (delayPercent) => set({ delayPercent }), 100)}
        {number("Abort with", wanted.abortStatus, (abortStatus) => set({ abortStatus }), 599)}
        {number("of requests, %", wanted.abortPercent, (abortPercent) => set({ abortPercent }), 100)}
      </fieldset>
      <button data-testid="preview" onClick={() => propose({ before: routes && written(routes), after: written(withSettings(name, namespace, routes, wanted)) })}>
        Show the change
      </button>
      <button onClick={() => propose({ before: null, after: strict(name, namespace) })}>Require mutual TLS…</button>
      {proposal && <Proposal {...proposal} close={() => propose(null)} done={changed} />}
    </section>
  );
}

const strict = (name: string, namespace: string): Resource => ({
  apiVersion: "security.istio.io/v1",
  kind: "PeerAuthentication",
  metadata: { name, namespace },
  spec: { selector: { matchLabels: { app: name } }, mtls: { mode: "STRICT" } },
});
