// The live graph: who calls whom, how much, how well, and whether it is encrypted.

import type { ComponentChildren } from "preact";
import { useMemo, useState } from "preact/hooks";
import type { Edge } from "./api";
import { bytes, health, id, isIdle, milliseconds, percent, perSecond, requests, responses, shortHost, splits, sum, type Summary } from "./figures";
import { Lock, LockShape, Mark } from "./icons";
import { curve, LABEL, layout, NODE, type Node, type Path } from "./layout";
import { Plot } from "./plot";
import { edges, seconds, span, splitBy, total } from "./state";

export function GraphView() {
  const [selected, select] = useState<string | null>(null);
  const shown = edges.value;
  const placed = useMemo(() => layout(shown), [shown]);
  if (!span.value) return <p class="empty">Reading what flows…</p>;
  if (shown.length === 0) {
    return (
      <div class="card empty">
        <h2>No traffic yet</h2>
        <p>As soon as a request flows between two workloads, it is drawn here.</p>
        <p><code>mizzen run --service hello --port http=8000 -- python3 -m http.server 8000</code></p>
      </div>
    );
  }
  const node = placed.nodes.find((n) => n.id === selected);
  const path = placed.paths.find((p) => p.key === selected);
  return (
    <div class="graph">
      <div class="canvas card">
        <Strip placed={placed.nodes} shown={shown} />
        <Splitters />
        <svg viewBox={`0 0 ${placed.width} ${placed.height}`} style={{ maxWidth: `${placed.width * 1.25}px` }} role="img" aria-label="Graph of the mesh" data-testid="graph" onClick={() => select(null)}>
          <defs>
            {["good", "warn", "bad", "idle"].map((kind) => (
              <marker key={kind} id={`arrow-${kind}`} class={kind} viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" orient="auto">
                <path d="M0,0 L8,4 L0,8 z" />
              </marker>
            ))}
          </defs>
          {placed.paths.map((p) => <EdgeLine key={p.key} path={p} selected={selected === p.key} />)}
          {placed.nodes.map((n) => <NodeBox key={n.id} node={n} selected={selected === n.id} inward={placed.paths.filter((p) => p.to === n.id).flatMap((p) => p.edges)} select={select} />)}
          {placed.paths.map((p) => <EdgeLabel key={p.key} path={p} selected={selected === p.key} select={select} />)}
        </svg>
        <Legend />
      </div>
      {path && <EdgePanel path={path} close={() => select(null)} />}
      {node && <NodePanel node={node} shown={shown} close={() => select(null)} />}
    </div>
  );
}

/** The mesh in one line. */
function Strip({ placed, shown }: { placed: Node[]; shown: Edge[] }) {
  const gateways = new Set(placed.filter((n) => n.kind === "gateway").map((n) => n.id));
  const entering = shown.filter((e) => gateways.has(id(e.source)));
  const entry = sum(entering, seconds.value);
  const all = sum(shown, seconds.value);
  const active = shown.filter((e) => !isIdle(e));
  const known = active.filter((e) => e.mutualTls !== null);
  const locked = known.filter((e) => e.mutualTls).length;
  const [shownSummary, label] = entering.length > 0 ? [entry, "through gateways"] : [all, "in the mesh"];
  return (
    <div class="strip">
      <Figure label={`requests ${label}`} value={requests(shownSummary, total.value)} />
      <Figure label="errors" value={percent(shownSummary.errorPercent)} tone={health(shownSummary)} />
      <Figure label="p50" value={milliseconds(shownSummary.p50Ms)} />
      <Figure label="p99" value={milliseconds(shownSummary.p99Ms)} />
      <Figure label={`of ${known.length} edges with mutual TLS`} value={String(locked)} tone={locked === known.length ? "good" : "warn"} />
    </div>
  );
}

/** The workloads that split traces, of all or of one name. */
export const Splitters = ({ of }: { of?: string }) => (
  <>
    {splitBy.value.filter((by) => of === undefined || id(by) === of).map((by) => (
      <p key={id(by)} class="notice" data-testid="splitter"><a href={`#/workloads/${id(by)}`}>{by.name}</a> {splits(by)}</p>
    ))}
  </>
);

export const Figure = ({ label, value, tone }: { label: string; value: string; tone?: string }) => (
  <div class="figure"><b class={tone === "idle" ? "" : tone}>{value}</b><span>{label}</span></div>
);

const isTcp = (path: Path): boolean => path.edges.every((e) => e.protocol === "tcp");

/** Thicker where more flows. */
const width = (summary: Summary): number => 1.4 + Math.min(3, Math.log10(1 + summary.requests / Math.max(summary.seconds, 1)));

function EdgeLine({ path, selected }: { path: Path; selected: boolean }) {
  const summary = sum(path.edges, seconds.value);
  const kind = health(summary);
  return (
    <path class={`line ${kind} ${selected ? "selected" : ""}`} d={curve(path.points)} style={{ strokeWidth: width(summary) }} marker-end={`url(#arrow-${kind})`} />
  );
}

function EdgeLabel({ path, selected, select }: { path: Path; selected: boolean; select: (key: string) => void }) {
  const summary = sum(path.edges, seconds.value);
  const kind = health(summary);
  const choose = (event: Event) => {
    event.stopPropagation();
    select(path.key);
  };
  const [source, destination] = [path.from.split("/").at(-1), path.to.split("/").at(-1)];
  const main = isTcp(path) ? bytes(summary, total.value) : requests(summary, total.value);
  const errors = summary.errorPercent > 0 ? `${percent(summary.errorPercent)} errors` : "";
  const second = kind === "idle" ? "idle" : isTcp(path) ? "TCP" : `${milliseconds(summary.p50Ms)} · ${milliseconds(summary.p99Ms)}`;
  const [x, y] = [path.label.x, path.label.y];
  const tall = errors ? 13 : 0;
  return (
    <g class={`edge ${kind} ${selected ? "selected" : ""}`} onClick={choose} transform={`translate(${x},${y})`} tabindex={0} role="button"
      data-source={source} data-destination={destination} data-health={kind} data-protocol={isTcp(path) ? "tcp" : "http"} data-seconds={summary.seconds} data-rate={summary.requests / Math.max(summary.seconds, 0.001)} data-bytes={summary.bytes} data-mtls={String(summary.mutualTls)}>
      <title>{`${source} → ${destination}: ${main}, p50 · p99 ${second}${errors && `, ${errors}`}`}</title>
      <rect class="label" x={-LABEL.width / 2} y={-19 - tall / 2} width={LABEL.width} height={38 + tall} rx="7" />
      {summary.mutualTls !== null && (
        <g class={`lock ${summary.mutualTls ? "closed" : "open"}`} transform={`translate(${-LABEL.width / 2 + 6},${-14 - tall / 2}) scale(.82)`}>
          <LockShape closed={summary.mutualTls} />
        </g>
      )}
      <text class="main" x="4" y={-4 - tall / 2}>{kind === "idle" ? "–" : main}</text>
      <text class="small" y={11 - tall / 2}>{second}</text>
      {errors && <text class="errors" y={11 + tall / 2}>{errors}</text>}
    </g>
  );
}

function NodeBox({ node, inward, selected, select }: { node: Node; inward: Edge[]; selected: boolean; select: (key: string) => void }) {
  const kind = inward.length === 0 ? "good" : health(sum(inward, seconds.value));
  const choose = (event: Event) => {
    event.stopPropagation();
    select(node.id);
  };
  const { name, namespace, version } = node.workload;
  const under = node.kind === "service" ? "no workload reached" : [namespace, version === "unknown" ? "" : version].filter(Boolean).join(" · ");
  return (
    <g class={`node ${kind} ${node.kind} ${selected ? "selected" : ""}`} transform={`translate(${node.x},${node.y})`} onClick={choose} tabindex={0} role="button" data-workload={name} data-kind={node.kind} data-x={node.x}>
      <title>{name}</title>
      <rect class="box" x={-NODE.width / 2} y={-NODE.height / 2} width={NODE.width} height={NODE.height} rx="10" />
      <path class="state" d={`M${-NODE.width / 2 + 1},${-NODE.height / 2 + 14} v${NODE.height - 28}`} />
      <g class="mark" transform={`translate(${-NODE.width / 2 + 11},-10)`}><Mark kind={node.kind} /></g>
      <text x={-NODE.width / 2 + 39} y="-3">{name.length > 20 ? `${name.slice(0, 19)}…` : name}</text>
      <text class="small" x={-NODE.width / 2 + 39} y="13">{under}</text>
    </g>
  );
}

const Legend = () => (
  <p class="legend">
    <span class="good">▬ well</span><span class="warn">▬ some errors</span><span class="bad">▬ 5 % errors and more</span><span class="idle">▬ idle for a while</span>
    <span>on each edge: rate, then p50 · p99</span>
  </p>
);

function EdgePanel({ path, close }: { path: Path; close: () => void }) {
  const [source, destination] = path.edges[0] ? [path.edges[0].source, path.edges[0].destination] : [];
  const summary = sum(path.edges, seconds.value);
  const names = [...new Set(path.edges.map((e) => e.service))].filter(Boolean);
  return (
    <aside class="card">
      <button class="close" onClick={close} aria-label="Close">×</button>
      <h2>{path.from.split("/").at(-1)} → {path.to.split("/").at(-1)}</h2>
      <Facts summary={summary} tcp={isTcp(path)} />
      <dl>
        <dt>Called as</dt><dd>{names.map((name) => <a key={name} href={`#/services/${name}`}>{shortHost(name)} </a>)}</dd>
        <dt>Caller's identity</dt><dd class="mono">{[...new Set(path.edges.flatMap((e) => e.principals))].join(", ") || "–"}</dd>
      </dl>
      <Responses edges={path.edges} />
      {source && destination && <Plot which={{ source: id(source), destination: id(destination) }} tcp={isTcp(path)} />}
    </aside>
  );
}

function NodePanel({ node, shown, close }: { node: Node; shown: Edge[]; close: () => void }) {
  const isService = node.id.startsWith("service/");
  const inward = shown.filter((e) => (isService ? `service/${e.service}` === node.id : id(e.destination) === node.id));
  const outward = shown.filter((e) => id(e.source) === node.id);
  const chosen = inward.length > 0 ? inward : outward;
  const host = inward.map((e) => e.service).find((name) => name && name !== "unknown");
  const which = isService ? { service: node.id.slice("service/".length) } : inward.length > 0 ? { destination: node.id } : { source: node.id };
  return (
    <aside class="card">
      <button class="close" onClick={close} aria-label="Close">×</button>
      <h2>{node.workload.name}</h2>
      <p class="hint">{inward.length > 0 ? "What it receives" : "What it sends"}</p>
      <Facts summary={sum(chosen, seconds.value)} tcp={chosen.every((e) => e.protocol === "tcp")} />
      <p>
        {!isService && <a class="button" href={`#/workloads/${node.id}`}>Workload</a>}
        {host && <a class="button" href={`#/services/${host}`}>Steer {shortHost(host)}</a>}
      </p>
      <Responses edges={chosen} />
      <Plot which={which} tcp={chosen.every((e) => e.protocol === "tcp")} />
    </aside>
  );
}

export function Facts({ summary, tcp }: { summary: Summary; tcp: boolean }) {
  const lock = summary.mutualTls;
  return (
    <dl class="facts" data-requests={summary.requests} data-failed={summary.failed} data-p50={summary.p50Ms ?? ""} data-p99={summary.p99Ms ?? ""} data-bytes={summary.bytes}>
      {!tcp && <Fact name="requests">{requests(summary, total.value)}</Fact>}
      {!tcp && <Fact name="errors" tone={health(summary)}>{percent(summary.errorPercent)}</Fact>}
      {!tcp && <Fact name="p50">{milliseconds(summary.p50Ms)}</Fact>}
      {!tcp && <Fact name="p99">{milliseconds(summary.p99Ms)}</Fact>}
      {tcp && <Fact name="connections opened">{summary.opened}</Fact>}
      <Fact name="bytes">{bytes(summary, total.value)}</Fact>
      <Fact name={lock === null ? "encryption not known" : lock ? "mutual TLS" : "plaintext"}>{lock === null ? "–" : <Lock closed={lock} />}</Fact>
    </dl>
  );
}

const Fact = ({ name, tone, children }: { name: string; tone?: string; children: ComponentChildren }) => (
  <div><dd class={tone === "idle" ? "" : tone}>{children}</dd><dt>{name}</dt></div>
);

export function Responses({ edges }: { edges: Edge[] }) {
  const rows = responses(edges);
  if (rows.length === 0) return null;
  const all = rows.reduce((n, [, count]) => n + count, 0);
  return (
    <ul class="responses">
      {rows.map(([code, count]) => (
        <li key={code} data-code={code}>
          <span class={/^(5|0)/.test(code) ? "bad" : /^4/.test(code) ? "warn" : "good"}>{code}</span>
          <i style={{ width: `${Math.max(1, (100 * count) / all)}%` }} class={/^(5|0)/.test(code) ? "bad" : /^4/.test(code) ? "warn" : "good"} />
          <span class="number">{total.value ? count : perSecond(count / Math.max(seconds.value, 0.001))}</span>
        </li>
      ))}
    </ul>
  );
}
