// Services and workloads: how well each answers, who calls it, and the levers that steer it.

import { useEffect, useState } from "preact/hooks";
import type { Edge, Resource } from "./api";
import { list, selector } from "./api";
import { bytes, groupBy, health, id, isUnknown, milliseconds, percent, requests, services, shortHost, sum } from "./figures";
import { Facts, Responses, Splitters } from "./graph";
import { Lock } from "./icons";
import { Plot } from "./plot";
import { Policies } from "./policy";
import { edges, proxies, seconds, span, total } from "./state";
import { Steer } from "./steer";

function Row({ name, href, edges }: { name: string; href?: string; edges: Edge[] }) {
  const summary = sum(edges, seconds.value);
  const tcp = edges.every((e) => e.protocol === "tcp");
  return (
    <tr data-name={name} data-requests={summary.requests} data-failed={summary.failed} data-p50={summary.p50Ms ?? ""} data-p99={summary.p99Ms ?? ""} data-bytes={summary.bytes} data-seconds={summary.seconds}>
      <td>{href ? <a href={href}>{name}</a> : name}</td>
      <td class="number">{tcp ? "–" : requests(summary, total.value)}</td>
      <td class={`number ${health(summary)}`}>{tcp || summary.requests === 0 ? "–" : percent(100 - summary.errorPercent)}</td>
      <td class="number">{milliseconds(summary.p50Ms)}</td>
      <td class="number">{milliseconds(summary.p99Ms)}</td>
      <td class="number">{bytes(summary, total.value)}</td>
      <td class="middle">{summary.mutualTls === null ? "–" : <Lock closed={summary.mutualTls} />}</td>
    </tr>
  );
}

function Table({ what, rows, testid }: { what: string; rows: { name: string; href?: string; edges: Edge[] }[]; testid?: string }) {
  return (
    <table data-testid={testid}>
      <thead>
        <tr>
          <th>{what}</th><th class="number">{total.value ? "Requests" : "Rate"}</th><th class="number">Success</th><th class="number">p50</th><th class="number">p99</th><th class="number">Bytes</th><th class="middle">mTLS</th>
        </tr>
      </thead>
      <tbody>{rows.map((row) => <Row key={row.name} {...row} />)}</tbody>
    </table>
  );
}

const Empty = ({ what }: { what: string }) => (
  <div class="card empty"><h2>{span.value ? `No ${what} yet` : "Reading what flows…"}</h2>{span.value && <p>It is listed as soon as a request of it was seen.</p>}</div>
);

export function ServicesView() {
  const found = services(edges.value);
  if (found.size === 0) return <Empty what="service" />;
  return (
    <section class="card">
      <Table what="Service" testid="services" rows={[...found].map(([host, its]) => ({ name: shortHost(host), href: `#/services/${host}`, edges: its }))} />
    </section>
  );
}

const workloadRow = (name: string, its: Edge[]) => {
  const [namespace = "", workload = ""] = name.split("/");
  return { name: isUnknown({ name: workload } as any) ? "none reached" : workload, ...(workload && workload !== "unknown" && { href: `#/workloads/${namespace}/${workload}` }), edges: its };
};

export function ServiceView({ host }: { host: string }) {
  const its = edges.value.filter((e) => e.service === host);
  const summary = sum(its, seconds.value);
  const tcp = its.length > 0 && its.every((e) => e.protocol === "tcp");
  return (
    <>
      <h1>{shortHost(host)} <small>service</small></h1>
      <div class="columns">
        <div>
          <section class="card" data-testid="service">
            {its.length === 0 ? <p class="hint">Nothing has called it in the last five minutes.</p> : <Facts summary={summary} tcp={tcp} />}
            <Responses edges={its} />
            <Plot which={{ service: host }} tcp={tcp} />
          </section>
          <section class="card">
            <Table what="Workload" testid="workloads" rows={[...groupBy(its, (e) => id(e.destination))].map(([name, e]) => workloadRow(name, e))} />
            <Table what="Caller" testid="callers" rows={[...groupBy(its, (e) => id(e.source))].map(([name, e]) => workloadRow(name, e))} />
          </section>
        </div>
        {/* Another service has levers of its own: nothing that was found of this one is shown there. */}
        <Levers key={host} host={host} its={its} />
      </div>
    </>
  );
}

export function WorkloadsView() {
  const inward = groupBy(edges.value.filter((e) => !isUnknown(e.destination)), (e) => id(e.destination));
  const names = new Set([...inward.keys(), ...edges.value.filter((e) => !isUnknown(e.source)).map((e) => id(e.source))]);
  if (names.size === 0) return <Empty what="workload" />;
  return (
    <div class="columns">
      <section class="card">
        <Table what="Workload" rows={[...names].sort().map((name) => ({ name, href: `#/workloads/${name}`, edges: inward.get(name) ?? [] }))} />
      </section>
      <Proxies />
    </div>
  );
}

/** How far each proxy is, and what it refused. */
function Proxies() {
  const found = (proxies.value?.proxies ?? []).toSorted((a, b) => a.proxy.localeCompare(b.proxy));
  return (
    <section class="card">
      <h2>Proxies</h2>
      <table>
        <tbody>
          {found.map((p) => {
            const refused = p.types.filter((t) => t.state === "NACK");
            return (
              <tr key={p.proxy}>
                <td>{p.proxy}<div class="hint mono">{p.identity}</div>{refused.map((t) => <div key={t.typeUrl} class="bad">{t.typeUrl.split(".").at(-1)}: {t.nack}</div>)}</td>
                <td class={`number ${refused.length > 0 ? "bad" : p.synced ? "good" : "warn"}`}>{refused.length > 0 ? "refused" : p.synced ? "in sync" : "behind"}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </section>
  );
}

export function WorkloadView({ workload }: { workload: string }) {
  const inward = edges.value.filter((e) => id(e.destination) === workload);
  const outward = edges.value.filter((e) => id(e.source) === workload);
  const tcp = inward.length > 0 && inward.every((e) => e.protocol === "tcp");
  const [namespace = "", name = ""] = workload.split("/");
  const mine = (proxies.value?.proxies ?? []).filter((p) => p.namespace === namespace && p.proxy.startsWith(name));
  return (
    <>
      <h1>{name} <small>workload in {namespace}</small></h1>
      <div class="columns">
        <section class="card" data-testid="workload">
          <h2>What it receives</h2>
          {inward.length === 0 && <p class="hint">Nothing calls it.</p>}
          {inward.length > 0 && <><Facts summary={sum(inward, seconds.value)} tcp={tcp} /><Responses edges={inward} /><Plot which={{ destination: workload }} tcp={tcp} /></>}
        </section>
        <div>
          <section class="card">
            <Splitters of={workload} />
            <h2>Callers</h2>
            <Table what="Caller" rows={[...groupBy(inward, (e) => id(e.source))].map(([n, e]) => workloadRow(n, e))} />
            <h2>What it calls</h2>
            <Table what="Service" rows={[...services(outward)].map(([host, e]) => ({ name: shortHost(host), href: `#/services/${host}`, edges: e }))} />
          </section>
          <section class="card">
            <h2>Replicas</h2>
            {mine.map((p) => (
              <p key={p.proxy}><b>{p.proxy}</b> <span class={p.synced ? "good" : "warn"}>{p.synced ? "in sync" : "behind"}</span><br /><span class="hint mono">{p.identity}</span></p>
            ))}
            {mine.length === 0 && <p class="hint">No proxy of it is connected.</p>}
          </section>
        </div>
      </div>
    </>
  );
}

interface Found {
  routes: Resource | null;
  rule: Resource | null;
  authentication: Resource | null;
  authorizations: Resource[];
  selector: Record<string, string> | null;
}

/** The resources that speak of a service, which the levers change. */
function Levers({ host, its }: { host: string; its: Edge[] }) {
  const [name = "", namespace = "default"] = host.split(".");
  const [found, setFound] = useState<Found | null>(null);
  const [failure, setFailure] = useState<string | null>(null);
  const load = () =>
    Promise.all([list("VirtualService"), list("DestinationRule"), list("PeerAuthentication"), list("AuthorizationPolicy"), selector(namespace, name)])
      .then(([all, rules, authentications, authorizations, labels]) => {
        const mine = (r: Resource, hosts: string[]) => hosts.includes(host) || (r.metadata.namespace === namespace && hosts.includes(name));
        setFound({
          routes: all.find((r) => mine(r, r.spec.hosts ?? []) && !(r.spec.gateways ?? []).some((g: string) => g !== "mesh")) ?? null,
          rule: rules.find((r) => mine(r, [r.spec.host])) ?? null,
          authentication: authentications.find((r) => r.metadata.namespace === namespace && r.metadata.name === name) ?? null,
          authorizations: authorizations.filter((r) => r.metadata.namespace === namespace),
          selector: labels,
        });
      })
      .catch((error) => setFailure(String(error.message ?? error)));
  useEffect(() => void load(), [host]);
  if (!host.includes(".svc.")) return <section class="card hint">It lies outside the mesh: a ServiceEntry steers it.</section>;
  if (failure) return <section class="card bad">{failure}</section>;
  if (!found) return <section class="card">…</section>;
  return (
    <div>
      <Steer name={name} namespace={namespace} routes={found.routes} rule={found.rule} changed={load} />
      <Policies name={name} namespace={namespace} {...found} its={its} changed={load} />
    </div>
  );
}
