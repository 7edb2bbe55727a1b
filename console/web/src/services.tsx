// Services: how well each answers, and the levers that steer it.

import { useEffect, useState } from "preact/hooks";
import type { Edge, Resource } from "./api";
import { list } from "./api";
import { bytes, health, milliseconds, percent, perSecond, services, shortHost, sum } from "./figures";
import { Responses } from "./graph";
import { Plot } from "./plot";
import { edges } from "./state";
import { Steer } from "./steer";

const Lock = ({ mutualTls }: { mutualTls: boolean | null }) => (
  <span title={mutualTls === null ? "not known" : mutualTls ? "mutual TLS" : "plaintext"}>{mutualTls === null ? "–" : mutualTls ? "🔒" : "🔓"}</span>
);

function Row({ name, href, edges }: { name: string; href?: string; edges: Edge[] }) {
  const summary = sum(edges);
  return (
    <tr data-service={name}>
      <td>{href ? <a href={href}>{name}</a> : name}</td>
      <td class="number" data-figure="rate">{perSecond(summary.rate)}</td>
      <td class={`number ${health(summary.errorPercent)}`}>{percent(100 - summary.errorPercent)}</td>
      <td class="number">{milliseconds(summary.p50Ms)}</td>
      <td class="number">{milliseconds(summary.p99Ms)}</td>
      <td class="number">{bytes(summary.bytesRate)}</td>
      <td><Lock mutualTls={summary.mutualTls} /></td>
    </tr>
  );
}

const Head = ({ what }: { what: string }) => (
  <thead>
    <tr><th>{what}</th><th class="number">Rate</th><th class="number">Success</th><th class="number">p50</th><th class="number">p99</th><th class="number">Bytes</th><th>mTLS</th></tr>
  </thead>
);

export function ServicesView() {
  const found = services(edges.value);
  if (found.size === 0) return <p class="empty">No service has answered in the last seconds.</p>;
  return (
    <section class="card">
      <table>
        <Head what="Service" />
        <tbody>{[...found].map(([host, its]) => <Row key={host} name={shortHost(host)} href={`#/services/${host}`} edges={its} />)}</tbody>
      </table>
    </section>
  );
}

export function ServiceView({ host }: { host: string }) {
  const its = edges.value.filter((e) => e.service === host);
  const workloads = Map.groupBy(its, (e) => e.destination.name);
  const callers = Map.groupBy(its, (e) => e.source.name);
  return (
    <>
      <h1>{shortHost(host)}</h1>
      <div class="columns">
        <section class="card">
          <h2>Workloads</h2>
          <table><Head what="Workload" /><tbody>{[...workloads].map(([name, e]) => <Row key={name} name={name} edges={e} />)}</tbody></table>
          <h2>Callers</h2>
          <table><Head what="Caller" /><tbody>{[...callers].map(([name, e]) => <Row key={name} name={name} edges={e} />)}</tbody></table>
          <Responses edges={its} />
          <Plot of={(e) => e.service === host} />
        </section>
        <Levers host={host} />
      </div>
    </>
  );
}

/** The VirtualService and DestinationRule of a service's own name, which the levers change. */
function Levers({ host }: { host: string }) {
  const [name = "", namespace = "default"] = host.split(".");
  const [found, setFound] = useState<{ routes: Resource | null; rule: Resource | null } | null>(null);
  const [failure, setFailure] = useState<string | null>(null);
  const load = () =>
    Promise.all([list("VirtualService"), list("DestinationRule")])
      .then(([all, rules]) => {
        const mine = (r: Resource, hosts: string[]) => hosts.includes(host) || (r.metadata.namespace === namespace && hosts.includes(name));
        setFound({
          routes: all.find((r) => mine(r, r.spec.hosts ?? []) && !(r.spec.gateways ?? []).some((g: string) => g !== "mesh")) ?? null,
          rule: rules.find((r) => mine(r, [r.spec.host])) ?? null,
        });
      })
      .catch((error) => setFailure(String(error.message ?? error)));
  useEffect(() => void load(), [host]);
  if (failure) return <section class="card bad">{failure}</section>;
  if (!found) return <section class="card">…</section>;
  return <Steer name={name} namespace={namespace} routes={found.routes} rule={found.rule} changed={load} />;
}
