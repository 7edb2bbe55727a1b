// The live graph: who calls whom, how much, how well, and whether it is encrypted.

import { useMemo, useState } from "preact/hooks";
import type { Edge } from "./api";
import { bytes, health, id, milliseconds, percent, perSecond, shortHost, sum } from "./figures";
import { curve, layout, NODE } from "./layout";
import { Plot } from "./plot";
import { edges } from "./state";

const Lock = ({ closed }: { closed: boolean }) => (
  <g class={closed ? "lock closed" : "lock open"}>
    <rect x="-5" y="-2" width="10" height="8" rx="1.5" />
    <path d={closed ? "M-3,-2 v-2 a3,3 0 0 1 6,0 v2" : "M-3,-2 v-2 a3,3 0 0 1 6,0"} />
    <title>{closed ? "mutual TLS" : "plaintext"}</title>
  </g>
);

export function GraphView() {
  const [selected, select] = useState<string | null>(null);
  const shown = edges.value;
  const placed = useMemo(() => layout(shown), [shown]);
  if (shown.length === 0) {
    return <p class="empty">No traffic in the last seconds. As soon as a request flows, it is drawn here.</p>;
  }
  const inward = (key: string) => sum(shown.filter((e) => id(e.destination) === key));
  return (
    <div class="graph">
      <svg viewBox={`0 0 ${placed.width} ${placed.height}`} role="img" aria-label="Graph of the mesh" data-testid="graph">
        <defs>
          {["good", "warn", "bad"].map((kind) => (
            <marker key={kind} id={`arrow-${kind}`} class={kind} viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
              <path d="M0,0 L8,4 L0,8 z" />
            </marker>
          ))}
        </defs>
        {placed.paths.map(({ edge, points, label }) => {
          const key = `${id(edge.source)}>${id(edge.destination)}`;
          const kind = health(edge.errorPercent);
          return (
            <g key={key} class={`edge ${kind} ${selected === key ? "selected" : ""}`} onClick={() => select(key)} data-source={edge.source.name} data-destination={edge.destination.name} data-health={kind}>
              <path class="hit" d={curve(points)} />
              <path class="line" d={curve(points)} marker-end={`url(#arrow-${kind})`} />
              <g transform={`translate(${label.x},${label.y})`}>
                <rect class="label" x="-36" y="-16" width="72" height="32" rx="5" />
                <text y="-3">{edge.protocol === "tcp" ? bytes(edge.bytesRate) : perSecond(edge.rate)}</text>
                <text class="small" y="10">
                  {edge.protocol === "tcp" ? "TCP" : edge.errorPercent > 0 ? `${percent(edge.errorPercent)} err` : milliseconds(edge.p99Ms)}
                </text>
                {edge.mutualTls !== null && (
                  <g transform="translate(-36,-14) scale(.9)">
                    <Lock closed={edge.mutualTls} />
                  </g>
                )}
              </g>
            </g>
          );
        })}
        {placed.nodes.map((node) => {
          const summary = inward(node.id);
          return (
            <g key={node.id} class={`node ${health(summary.errorPercent)} ${selected === node.id ? "selected" : ""}`} transform={`translate(${node.x},${node.y})`} onClick={() => select(node.id)} data-workload={node.workload.name}>
              <rect x={-NODE.width / 2} y={-NODE.height / 2} width={NODE.width} height={NODE.height} rx="9" />
              <text y="-4">{node.workload.name}</text>
              <text class="small" y="14">
                {node.workload.namespace}
                {node.workload.version && node.workload.version !== "unknown" ? ` · ${node.workload.version}` : ""}
              </text>
            </g>
          );
        })}
      </svg>
      {selected && <Side selected={selected} edges={shown} close={() => select(null)} />}
    </div>
  );
}

function Side({ selected, edges, close }: { selected: string; edges: Edge[]; close: () => void }) {
  const isEdge = selected.includes(">");
  const belongs = (e: Edge) => (isEdge ? `${id(e.source)}>${id(e.destination)}` === selected : id(e.destination) === selected);
  const chosen = edges.filter(belongs);
  const summary = sum(chosen);
  return (
    <aside class="card">
      <button class="close" onClick={close} aria-label="Close">×</button>
      <h2>{isEdge ? selected.split(">").map((part) => part.split("/")[1]).join(" → ") : selected}</h2>
      <dl>
        <dt>Requests</dt><dd>{perSecond(summary.rate)}</dd>
        <dt>Errors</dt><dd class={health(summary.errorPercent)}>{percent(summary.errorPercent)}</dd>
        <dt>p50 / p99</dt><dd>{milliseconds(summary.p50Ms)} / {milliseconds(summary.p99Ms)}</dd>
        <dt>Bytes</dt><dd>{bytes(summary.bytesRate)}</dd>
        <dt>Encryption</dt><dd>{summary.mutualTls === null ? "unknown" : summary.mutualTls ? "mutual TLS" : "plaintext"}</dd>
        {chosen.map((e) => e.service && (
          <>
            <dt>Called as</dt><dd><a href={`#/services/${e.service}`}>{shortHost(e.service)}</a></dd>
          </>
        ))}
      </dl>
      <Responses edges={chosen} />
      <Plot of={belongs} />
    </aside>
  );
}

export function Responses({ edges }: { edges: Edge[] }) {
  const rates = new Map<string, number>();
  for (const edge of edges) {
    for (const [code, rate] of Object.entries(edge.responses)) rates.set(code, (rates.get(code) ?? 0) + rate);
  }
  const rows = [...rates].filter(([, rate]) => rate > 0).sort(([a], [b]) => a.localeCompare(b));
  if (rows.length === 0) return null;
  return (
    <table>
      <thead><tr><th>Response</th><th class="number">Rate</th></tr></thead>
      <tbody>
        {rows.map(([code, rate]) => (
          <tr key={code}><td class={/^5|^0/.test(code) ? "bad" : ""}>{code}</td><td class="number">{perSecond(rate)}</td></tr>
        ))}
      </tbody>
    </table>
  );
}
