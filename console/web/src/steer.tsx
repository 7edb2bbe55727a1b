// The levers of a service's routes: weights, timeout, faults. Nothing is written before its YAML was shown.

import { useMemo, useState } from "preact/hooks";
import { type Resource, written } from "./api";
import { rebased, settings, type Settings, subsets, withSettings } from "./plan";
import { Proposal, type Wish } from "./proposal";
import { useWanted } from "./wanted";

interface Props {
  name: string;
  namespace: string;
  routes: Resource | null;
  rule: Resource | null;
  changed: () => void;
}

export function Steer({ name, namespace, routes, rule, changed }: Props) {
  const initial = useMemo(() => settings(routes, rule), [routes, rule]);
  const [wanted, want] = useWanted(initial, rebased);
  const [proposal, propose] = useState<Wish | null>(null);
  // From what is wanted by then: several fields may change before the page is drawn again.
  const set = (part: (now: Settings) => Partial<Settings>) => want((now) => ({ ...now, ...part(now) }));
  const number = (label: string, field: keyof Settings, max: number, step = 1) => (
    <label>{label}<input type="number" name={field} min="0" max={max} step={step} value={wanted[field] as number} onInput={({ currentTarget: { value } }) => set(() => ({ [field]: Number(value) }))} /></label>
  );
  const weights = Object.entries(wanted.weights);
  const sum = weights.reduce((n, [, weight]) => n + weight, 0);
  const show = () => {
    const after = written(withSettings(name, namespace, routes, wanted));
    propose({ before: routes && written(routes), after });
  };
  return (
    <section class="card levers" data-testid="steer">
      <h2>Routes</h2>
      {subsets(rule).length === 0 && <p class="hint">Weights need subsets: apply a DestinationRule for {name} that names its versions.</p>}
      {weights.map(([subset, weight]) => (
        <label key={subset} data-subset={subset}>
          <span class="name">{subset}</span>
          <input type="range" min="0" max="100" value={weight} style={{ "--part": `${weight}%` }} onInput={({ currentTarget: { value } }) => set((now) => ({ weights: { ...now.weights, [subset]: Number(value) } }))} />
          <output>{sum > 0 ? `${((100 * weight) / sum).toFixed(0)} %` : "–"}</output>
        </label>
      ))}
      {weights.length > 0 && sum === 0 && <p class="hint">No rule divides the requests: every replica gets its share.</p>}
      <label>Timeout<input name="timeout" placeholder="none; 500ms, 2s" value={wanted.timeout} onInput={({ currentTarget: { value } }) => set(() => ({ timeout: value }))} /></label>
      <fieldset>
        <legend>Delay</legend>
        {number("by seconds", "delaySeconds", 60, 0.1)}
        {number("% of requests", "delayPercent", 100)}
      </fieldset>
      <fieldset>
        <legend>Abort</legend>
        {number("with status", "abortStatus", 599)}
        {number("% of requests", "abortPercent", 100)}
      </fieldset>
      <p>
        <button data-testid="preview" disabled={JSON.stringify(wanted) === JSON.stringify(initial)} onClick={show}>Show the change</button>
        {routes && <button class="second" onClick={() => propose({ before: written(routes), after: null })}>Remove all routes of {name}…</button>}
      </p>
      {proposal && <Proposal key={JSON.stringify(proposal.after)} {...proposal} close={() => propose(null)} done={changed} />}
    </section>
  );
}
