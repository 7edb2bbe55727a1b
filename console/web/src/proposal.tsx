// A change before it is made: its YAML, what it means, what the server says of it; and afterwards the way back.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { stringify } from "yaml";
import { read, Refusal, remove, type Resource, write, written } from "./api";
import { type Effect, effectsOf } from "./effects";
import { difference } from "./plan";
import { type Change, changes, edges, proxies, refresh, remember, seconds, settled } from "./state";

/** `after` is nothing where the resource is to go. */
export interface Wish {
  before: Resource | null;
  after: Resource | null;
  /** The change that this takes back. */
  undoes?: Change;
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

export function Proposal({ before, after, undoes, close, done }: Wish & { close: () => void; done: () => void }) {
  const [verdict, judge] = useState<Verdict>({ kind: "asking" });
  const [applied, setApplied] = useState<{ change: Change; generation: number } | null>(null);
  // From what flows now: what is shown stays while it is read.
  const effects = useMemo(() => [...sinceThen(before, undoes), ...effectsOf(before, after, edges.value, seconds.value)], []);
  const refused = (error: unknown) => judge({ kind: "refused", refusal: refusal(error) });
  const own = useRef<HTMLDivElement>(null);
  useEffect(() => own.current?.scrollIntoView({ block: "nearest" }), []);
  useEffect(() => {
    if (after) write(after, true).then((warnings) => judge({ kind: "good", warnings }), refused);
    else judge({ kind: "good", warnings: [] });
  }, []);
  const apply = () => {
    const generation = proxies.value?.generation ?? 0;
    const change: Change = { at: Date.now(), before, after, undone: false };
    move(after, before).then(() => {
      remember(undoes ? asUndone(undoes) : [change, ...changes.value]);
      setApplied({ change, generation });
      void refresh();
      done();
    }, refused);
  };
  const back = () => applied && undo(applied.change).then(() => { close(); done(); }, refused);
  return (
    <div class="proposal" ref={own} role="dialog" aria-label="Proposed change">
      <h3>{undoes ? "Roll back" : after ? (before ? "Change" : "Create") : "Delete"} {titleOf({ before, after })}</h3>
      <Difference before={before} after={after} />
      <Effects effects={effects} testid="effects" />
      {verdict.kind === "asking" && <p class="hint">Asking the API server…</p>}
      {verdict.kind === "good" && verdict.warnings.map((w) => <p class="warn" key={w}>{w}</p>)}
      {verdict.kind === "good" && !applied && after && <p class="good" data-testid="verdict">The API server takes it.</p>}
      {verdict.kind === "refused" && <Refused refusal={verdict.refusal} />}
      {applied && <Progress since={applied.generation} />}
      {applied && !undoes && <WayBack before={before} after={after} />}
      <p>
        {applied && undoes ? (
          <button data-testid="keep" onClick={close}>Close</button>
        ) : applied ? (
          <><button data-testid="rollback" onClick={back}>Roll back</button><button class="second" data-testid="keep" onClick={close}>Keep</button></>
        ) : (
          <><button data-testid="apply" disabled={verdict.kind !== "good"} onClick={apply}>Apply</button><button class="second" onClick={close}>Leave it</button></>
        )}
      </p>
    </div>
  );
}

async function undo(change: Change): Promise<void> {
  await move(change.before, change.after);
  remember(asUndone(change));
  void refresh();
}

const asUndone = (change: Change): Change[] => changes.value.map((c) => (c.at === change.at ? { ...c, undone: true } : c));

/** What takes a change back, from the state that the resource has now. */
export async function wayBack(change: Change): Promise<Wish> {
  const of = (change.after ?? change.before)!;
  const current = await read(of.kind, of.metadata.namespace, of.metadata.name);
  return { before: current && written(current), after: change.before, undoes: change };
}

/** Whoever changed it after the change that is taken back. */
function sinceThen(current: Resource | null, undoes: Change | undefined): Effect[] {
  if (!undoes || JSON.stringify(current?.spec) === JSON.stringify(undoes.after?.spec)) return [];
  return [{ tone: "warn", text: "It was changed once more since then: that is taken back as well" }];
}

const Effects = ({ effects, testid }: { effects: Effect[]; testid: string }) => (
  <ul class="effects" data-testid={testid}>{effects.map((e) => <li key={e.text} class={e.tone}>{e.text}</li>)}</ul>
);

/** What rolling back would mean, before it is done. */
const WayBack = ({ before, after }: Wish) => (
  <>
    <h3>Rolled back, it means</h3>
    <Effects effects={effectsOf(after, before, edges.value, seconds.value)} testid="effects-back" />
    <details>
      <summary>its YAML</summary>
      <Difference before={after} after={before} />
    </details>
  </>
);

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
