// A change before it is made: its YAML, what the server says of it, and afterwards the way back.

import { useEffect, useState } from "preact/hooks";
import { stringify } from "yaml";
import { Refusal, remove, type Resource, write } from "./api";
import { difference } from "./plan";

interface Props {
  before: Resource | null;
  after: Resource;
  close: () => void;
  done: () => void;
}

type Verdict = { kind: "asking" } | { kind: "good"; warnings: string[] } | { kind: "refused"; refusal: Refusal };

export function Proposal({ before, after, close, done }: Props) {
  const [verdict, judge] = useState<Verdict>({ kind: "asking" });
  const [applied, setApplied] = useState(false);
  const refused = (error: unknown) => judge({ kind: "refused", refusal: error instanceof Refusal ? error : new Refusal(String(error), 0) });
  useEffect(() => {
    write(after, true).then((warnings) => judge({ kind: "good", warnings }), refused);
  }, []);
  const apply = () => write(after, false).then(() => { setApplied(true); done(); }, refused);
  const back = () => {
    const { namespace, name } = after.metadata;
    const undo = before ? write(before, false).then(() => undefined) : remove(after.kind, namespace, name);
    undo.then(() => { close(); done(); }, refused);
  };
  return (
    <div class="proposal" role="dialog" aria-label="Proposed change">
      <pre>
        {difference(before ? stringify(before) : "", stringify(after)).map(({ sign, line }, index) => (
          <span key={index} class={sign === "+" ? "come" : sign === "-" ? "go" : ""}>{`${sign} ${line}\n`}</span>
        ))}
      </pre>
      {verdict.kind === "asking" && <p>Asking the API server…</p>}
      {verdict.kind === "good" && verdict.warnings.map((w) => <p class="warn" key={w}>{w}</p>)}
      {verdict.kind === "good" && !applied && <p class="good">The API server takes it. Proxies get it within a second of applying.</p>}
      {verdict.kind === "refused" && (
        <div class="bad">
          <p>{verdict.refusal.message}</p>
          <ul>{verdict.refusal.causes.map((c) => <li key={c.field + c.message}><code>{c.field}</code> {c.message}</li>)}</ul>
        </div>
      )}
      {applied ? (
        <><p class="good">Applied.</p><button data-testid="rollback" onClick={back}>Roll back</button><button onClick={close}>Keep</button></>
      ) : (
        <><button data-testid="apply" disabled={verdict.kind !== "good"} onClick={apply}>Apply</button><button onClick={close}>Leave it</button></>
      )}
    </div>
  );
}
