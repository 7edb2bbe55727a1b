// The resources that people wrote, whether they hold, and an editor.

import { useEffect, useState } from "preact/hooks";
import { parse, stringify } from "yaml";
import { KINDS, list, type Resource, written } from "./api";
import { Proposal } from "./proposal";

function state(resource: Resource): { text: string; kind: "good" | "warn" | "bad" } {
  const conditions = resource.status?.conditions ?? [];
  const bad = conditions.find((c) => c.status === "False");
  if (!bad) return { text: "valid", kind: "good" };
  return { text: bad.message || bad.reason || bad.type, kind: bad.type === "Reconciled" ? "warn" : "bad" };
}

export function ResourcesView() {
  const [found, setFound] = useState<Resource[] | null>(null);
  const [failure, setFailure] = useState<string | null>(null);
  const [open, setOpen] = useState<Resource | null>(null);
  const load = () =>
    Promise.all(Object.keys(KINDS).map(list)).then((lists) => setFound(lists.flat()), (error) => setFailure(String(error.message ?? error)));
  useEffect(() => void load(), []);
  if (failure) return <p class="bad">{failure}</p>;
  if (!found) return <p class="empty">…</p>;
  return (
    <div class="columns">
      <section class="card">
        {found.length === 0 && <p class="empty">Nothing was applied yet: every service is reached by its name, over mutual TLS.</p>}
        <table>
          <thead><tr><th>Kind</th><th>Namespace</th><th>Name</th><th>State</th></tr></thead>
          <tbody>
            {found.map((r) => {
              const { text, kind } = state(r);
              return (
                <tr key={`${r.kind}/${r.metadata.namespace}/${r.metadata.name}`} onClick={() => setOpen(r)} class="link">
                  <td>{r.kind}</td><td>{r.metadata.namespace}</td><td><a href="#/resources">{r.metadata.name}</a></td><td class={kind}>{text}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </section>
      {open && <Editor key={`${open.kind}/${open.metadata.name}`} resource={open} close={() => setOpen(null)} done={load} />}
    </div>
  );
}

function Editor({ resource, close, done }: { resource: Resource; close: () => void; done: () => void }) {
  const before = written(resource);
  const [text, setText] = useState(stringify(before));
  const [failure, setFailure] = useState<string | null>(null);
  const [after, setAfter] = useState<Resource | null>(null);
  const preview = () => {
    try {
      setAfter(parse(text));
      setFailure(null);
    } catch (error) {
      setFailure(String(error));
    }
  };
  return (
    <section class="card">
      <button class="close" onClick={close} aria-label="Close">×</button>
      <h2>{resource.kind} {resource.metadata.name}</h2>
      <textarea spellcheck={false} value={text} onInput={(e) => setText(e.currentTarget.value)} rows={Math.min(30, text.split("\n").length + 2)} />
      {failure && <p class="bad">{failure}</p>}
      <button onClick={preview}>Show the change</button>
      {after && <Proposal before={before} after={after} close={() => setAfter(null)} done={done} />}
    </section>
  );
}
