// A change before it is made: its YAML, what it means, what the server says of it; and afterwards the way back.

import { useEffect, useState } from "preact/hooks";
import { stringify } from "yaml";
import { Refusal, remove, type Resource, write } from "./api";
import { difference, type Effect } from "./plan";
import { type Change, changes, proxies, refresh, remember, settled } from "./state";

/** `after` is nothing where the resource is to go. */
export interface Wish {
  before: Resource | null;
  after: Resource | null;
  effects: Effect[];
}

type Verdict = { kind: "asking" } | { kind: "good"; warnings: string[] } | { kind: "refused"; refusal: Refusal };

const refusal = (error: unknown): Refusal => (error instanceof Refusal ? error : new Refusal(String(error), 0));

/** From one state of a resource to another. */
export async function move(to: Resource | null, from: Resource | null): Promise<void> {
  if (to) await write(to, false);
  else if (from) await remove(from.kind, from.metadata.namespace, from.metadata.name);
}

export const titleOf = (change: { before: Resource | null; after: Resource | null }): string => {
  const of = change.after ?? change.before;
  return of ? `${of.kind} ${of.metadata.namespace}/${of.metadata.name}` : "";
};

export function Proposal({ before, after, effects, close, done }: Wish & { close: () => void; done: () => void }) {
  const [verdict, judge] = useState<Verdict>({ kind: "asking" });
  const [applied, setApplied] = useState<{ change: Change; generation: number } | null>(null);
  const refused = (error: unknown) => judge({ kind: "refused", refusal: refusal(error) });
  useEffect(() => {
    if (after) write(after, true).then((warnings) => judge({ kind: "good", warnings }), refused);
    else judge({ kind: "good", warnings: [] });
  }, []);
  const apply = () => {
    const generation = proxies.value?.generation ?? 0;
    const change: Change = { at: Date.now(), before, after, undone: false };
    move(after, before).then(() => {
      remember([change, ...changes.value]);
      setApplied({ change, generation });
      void refresh();
      done();
    }, refused);
  };
  const back = () => applied && undo(applied.change).then(() => { close(); done(); }, refused);
  return (
    <div class="proposal" role="dialog" aria-label="Proposed change">
      <h3>{after ? (before ? "Change" : "Create") : "Delete"} {titleOf({ before, after })}</h3>
      <Difference before={before} after={after} />
      {effects.length > 0 && <ul class="effects" data-testid="effects">{effects.map((e) => <li key={e.text} class={e.tone}>{e.text}</li>)}</ul>}
      {verdict.kind === "asking" && <p class="hint">Asking the API server…</p>}
      {verdict.kind === "good" && verdict.warnings.map((w) => <p class="warn" key={w}>{w}</p>)}
      {verdict.kind === "good" && !applied && after && <p class="good" data-testid="verdict">The API server takes it.</p>}
      {verdict.kind === "refused" && <Refused refusal={verdict.refusal} />}
      {applied && <Progress since={applied.generation} />}
      <p>
        {applied ? (
          <><button data-testid="rollback" onClick={back}>Roll back</button><button class="second" data-testid="keep" onClick={close}>Keep</button></>
        ) : (
          <><button data-testid="apply" disabled={verdict.kind !== "good"} onClick={apply}>Apply</button><button class="second" onClick={close}>Leave it</button></>
        )}
      </p>
    </div>
  );
}

export async function undo(change: Change): Promise<void> {
  await move(change.before, change.after);
  remember(changes.value.map((c) => (c.at === change.at ? { ...c, undone: true } : c)));
  void refresh();
}

export const Difference = ({ before, after }: { before: Resource | null; after: Resource | null }) => (
  <pre data-testid="yaml">
    {difference(before ? stringify(before) : "", after ? stringify(after) : "").map(({ sign, line }, index) => (
      <span key={index} class={sign === "+" ? "come" : sign === "-" ? "go" : ""}>{`${sign} ${line}\n`}</span>
    ))}
  </pre>
);

export const Refused = ({ refusal }: { refusal: Refusal }) => (
  <div class="bad" role="alert">
    <p>{refusal.message}</p>
    <ul>{refusal.causes.map((c) => <li key={c.field + c.message}><code>{c.field}</code> {c.message}</li>)}</ul>
  </div>
);

/** Whether the proxies have it by now. */
function Progress({ since }: { since: number }) {
  const now = proxies.value;
  if (!now || now.generation <= since || !settled(now)) return <p class="hint">Applied. The proxies are being told…</p>;
  return <p class="good" data-testid="accepted">Applied, and accepted by all {now.proxies.length} proxies.</p>;
}
