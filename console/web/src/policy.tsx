// The levers of a service's policies: who may call it, and whether plaintext is taken.

import { useState } from "preact/hooks";
import { type Edge, type Resource, written } from "./api";
import { perSecond } from "./figures";
import { callers } from "./effects";
import { allowedBy, onlyCallers } from "./plan";
import { Proposal, type Wish } from "./proposal";
import { seconds } from "./state";
import { useWanted } from "./wanted";

interface Props {
  name: string;
  namespace: string;
  authentication: Resource | null;
  authorizations: Resource[];
  selector: Record<string, string> | null;
  its: Edge[];
  changed: () => void;
}

const MODES = [["", "as the namespace says"], ["PERMISSIVE", "both: PERMISSIVE"], ["STRICT", "mutual TLS only: STRICT"], ["DISABLE", "plaintext only: DISABLE"]] as const;

export function Policies({ name, namespace, authentication, authorizations, selector, its, changed }: Props) {
  const own = authorizations.find((r) => r.metadata.name === `${name}-callers`) ?? null;
  const others = authorizations.filter((r) => r !== own);
  const stored = allowedBy(own);
  const mode = authentication?.spec.mtls?.mode ?? "";
  const [allowed, allow] = useWanted<string[] | null>(stored);
  const [wanted, want] = useWanted<string>(mode);
  const [proposal, propose] = useState<Wish | null>(null);
  const seen = callers(its, seconds.value);
  const known = [...new Set([...seen.map((c) => c.principal), ...(allowed ?? []), ...(stored ?? [])])].filter((p) => p !== null);
  const labels = selector ?? { app: name };
  const toggle = (principal: string) =>
    allow((now) => ((now ?? []).includes(principal) ? (now ?? []).filter((p) => p !== principal) : [...(now ?? []), principal]));
  const showCallers = () => propose({ before: own && written(own), after: onlyCallers(name, namespace, labels, allowed) });
  const showMode = () => propose({ before: authentication && written(authentication), after: wanted ? peerAuthentication(name, namespace, labels, wanted) : null });
  return (
    <section class="card levers" data-testid="policies">
      <h2>Who may call</h2>
      <label><input type="radio" name="who" checked={allowed === null} onChange={() => allow(null)} />everybody</label>
      <label><input type="radio" name="who" value="some" checked={allowed !== null} onChange={() => allow(stored ?? known)} />only</label>
      {allowed !== null && known.map((principal) => {
        const caller = seen.find((c) => c.principal === principal);
        return (
          <label key={principal} class="inner">
            <input type="checkbox" name={principal} checked={allowed.includes(principal)} onChange={() => toggle(principal)} />
            <span>{principal.split("/").at(-1)} <small class="hint">{caller ? `${caller.names}, ${perSecond(caller.rate)}` : "not seen lately"}</small></span>
          </label>
        );
      })}
      <p><button data-testid="preview-callers" disabled={JSON.stringify(allowed) === JSON.stringify(stored)} onClick={showCallers}>Show the change</button></p>
      {others.length > 0 && <p class="hint">Other policies in {namespace}: {others.map((r) => <a key={r.metadata.name} href="#/resources">{r.metadata.name} </a>)}</p>}
      <h2>What it takes</h2>
      <label>
        <select name="mode" value={wanted} onChange={(e) => want(e.currentTarget.value)}>{MODES.map(([value, label]) => <option key={value} value={value}>{label}</option>)}</select>
      </label>
      <p><button data-testid="preview-mode" disabled={wanted === mode} onClick={showMode}>Show the change</button></p>
      {proposal && <Proposal key={JSON.stringify(proposal.after)} {...proposal} close={() => propose(null)} done={changed} />}
    </section>
  );
}

const peerAuthentication = (name: string, namespace: string, matchLabels: Record<string, string>, mode: string): Resource => ({
  apiVersion: "security.istio.io/v1",
  kind: "PeerAuthentication",
  metadata: { name, namespace },
  spec: { selector: { matchLabels }, mtls: { mode } },
});
