// The resources that people wrote, whether they hold, and an editor.

import { useEffect, useState } from "preact/hooks";
import { parse, stringify } from "yaml";
import { KINDS, list, type Resource, written } from "./api";
import { Difference, Proposal, Refused, titleOf, wayBack, type Wish } from "./proposal";
import { beat, type Change, changes } from "./state";
import { type State, stateOf } from "./status";
import { Refusal } from "./api";

const MARKS: Record<State["kind"], string> = { good: "✓", warn: "!", bad: "✗", unknown: "…" };
const toneOf = (kind: State["kind"]): string => (kind === "unknown" ? "hint" : kind);

/** Registered by the processes that they stand for, which nobody writes. */
const isEphemeral = (r: Resource): boolean => "mizzen.dev/ephemeral" in ((r.metadata.annotations ?? {}) as object);
/** Statuses are written a moment after their resources: how many refreshes of the page lie between two looks. */
const LOOK = 3;

const key = (r: Resource): string => `${r.kind}/${r.metadata.namespace}/${r.metadata.name}`;

const NEW: Resource = {
  apiVersion: "networking.istio.io/v1",
  kind: "VirtualService",
  metadata: { name: "reviews", namespace: "default" },
  spec: { hosts: ["reviews"], http: [{ route: [{ destination: { host: "reviews" } }] }] },
};

export function ResourcesView() {
  const [found, setFound] = useState<Resource[] | null>(null);
  const [failure, setFailure] = useState<string | null>(null);
  const [open, setOpen] = useState<{ resource: Resource; isNew: boolean } | null>(null);
  const [kind, choose] = useState("");
  const load = () =>
    Promise.all(Object.keys(KINDS).map(list)).then((lists) => setFound(lists.flat()), (error) => setFailure(String(error.message ?? error)));
  useEffect(() => void load(), [changes.value, Math.floor(beat.value / LOOK)]);
  if (failure) return <p class="bad">{failure}</p>;
  if (!found) return <p class="empty">Reading the resources…</p>;
  const kinds = [...new Set(found.map((r) => r.kind))];
  const shown = found.filter((r) => kind === "" || r.kind === kind);
  return (
    <div class="columns">
      <div>
        <section class="card" data-testid="resources">
          <div class="tools">
            <button class={kind === "" ? "chip current" : "chip"} onClick={() => choose("")}>all {found.length}</button>
            {kinds.map((k) => <button key={k} class={kind === k ? "chip current" : "chip"} onClick={() => choose(k)}>{k} {found.filter((r) => r.kind === k).length}</button>)}
            <button class="right" onClick={() => setOpen({ resource: NEW, isNew: true })}>New…</button>
          </div>
          {found.every(isEphemeral) && <p class="empty">Nothing was applied yet: every service is reached by its name, over mutual TLS.</p>}
          {found.length > 0 && (
            <table>
              <thead><tr><th>Kind</th><th>Namespace</th><th>Name</th><th>State</th></tr></thead>
              <tbody>
                {shown.map((r) => {
                  const { text, kind } = stateOf(r);
                  return (
                    <tr key={key(r)} onClick={() => setOpen({ resource: r, isNew: false })} class={`link ${open && key(open.resource) === key(r) ? "current" : ""}`} data-name={r.metadata.name} data-state={kind}>
                      <td>{r.kind}</td><td>{r.metadata.namespace}</td><td class="name">{r.metadata.name}</td><td class={toneOf(kind)}>{MARKS[kind]} {text}</td>
                    </tr>
                  );
                })}
              </tbody>
            </table>
          )}
        </section>
        <Changes />
      </div>
      {open && <Editor key={`${key(open.resource)}/${open.isNew}`} {...open} now={found.find((r) => key(r) === key(open.resource))} close={() => setOpen(null)} done={load} />}
    </div>
  );
}

/** `now` is the resource as it is by now: what is edited is as it was when it was opened. */
function Editor({ resource, isNew, now, close, done }: { resource: Resource; isNew: boolean; now: Resource | undefined; close: () => void; done: () => void }) {
  const before = isNew ? null : written(resource);
  const original = stringify(written(resource));
  const [text, setText] = useState(original);
  const [failure, setFailure] = useState<string | null>(null);
  const [proposal, propose] = useState<Wish | null>(null);
  const preview = () => {
    try {
      const after = parse(text) as Resource;
      if (!after?.kind || !after.metadata?.name) throw new Error("an object needs kind and metadata.name");
      if (!KINDS[after.kind]) throw new Error(`${after.kind} is not among the kinds that are changed here: ${Object.keys(KINDS).join(", ")}`);
      after.metadata.namespace ??= "default";
      const isSame = before?.kind === after.kind && before.metadata.name === after.metadata.name && before.metadata.namespace === after.metadata.namespace;
      propose({ before: isSame ? before : null, after });
      setFailure(null);
    } catch (error) {
      setFailure(error instanceof Error ? error.message : String(error));
    }
  };
  const { text: said, kind } = stateOf(now ?? resource);
  return (
    <section class="card" data-testid="editor">
      <button class="close" onClick={close} aria-label="Close">×</button>
      <h2>{isNew ? "New resource" : `${resource.kind} ${resource.metadata.name}`}</h2>
      {!isNew && (kind !== "good" || said !== "valid") && <p class={toneOf(kind)}>{said}</p>}
      <textarea spellcheck={false} value={text} onInput={(e) => setText(e.currentTarget.value)} rows={Math.min(30, text.split("\n").length + 1)} />
      {failure && <p class="bad">{failure}</p>}
      <p>
        <button data-testid="preview" disabled={!isNew && text === original} onClick={preview}>Show the change</button>
        {!isNew && <button class="second" onClick={() => propose({ before, after: null })}>Delete…</button>}
      </p>
      {proposal && <Proposal key={JSON.stringify(proposal)} {...proposal} close={() => propose(null)} done={done} />}
    </section>
  );
}

/** What was changed in this session, each with its way back. */
function Changes() {
  const [failure, setFailure] = useState<Refusal | null>(null);
  const [proposal, propose] = useState<Wish | null>(null);
  const list = changes.value;
  if (list.length === 0) return null;
  const back = (change: Change) => wayBack(change).then((wish) => { setFailure(null); propose(wish); }, (error) => setFailure(error instanceof Refusal ? error : new Refusal(String(error), 0)));
  return (
    <section class="card" data-testid="changes">
      <h2>Changed here</h2>
      {failure && <Refused refusal={failure} />}
      {list.map((change) => (
        <details key={change.at}>
          <summary>
            {new Date(change.at).toLocaleTimeString()} {change.after ? (change.before ? "changed" : "created") : "deleted"} {titleOf(change)}{" "}
            {change.undone ? <span class="hint">rolled back</span> : <button class="second" onClick={() => back(change)}>Roll back…</button>}
          </summary>
          <Difference before={change.before} after={change.after} />
        </details>
      ))}
      {proposal && <Proposal key={proposal.undoes?.at} {...proposal} close={() => propose(null)} done={() => {}} />}
    </section>
  );
}
