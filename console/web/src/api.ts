// Calls to the console's server, with the user's own token. It lives in this tab's session and nowhere else.

export interface Workload {
  name: string;
  namespace: string;
  app: string;
  version: string;
}

/** What flowed from one workload to another in a span of time. */
export interface Edge {
  source: Workload;
  destination: Workload;
  /** The host that was called. */
  service: string;
  protocol: "http" | "tcp";
  /** Counts by response code and flags. */
  requests: Record<string, number>;
  failed: number;
  /** Cumulative counts of durations up to so many milliseconds; without a bound, of all. */
  buckets: [number | null, number][];
  bytes: number;
  opened: number;
  mutualTls: boolean | null;
  /** Identities under which the source was seen. */
  principals: string[];
}

export interface Span {
  /** How long ago it ended, and how long it was, in seconds. */
  ago: number;
  seconds: number;
  edges: Edge[];
}

/** A workload that hands its callers' trace headers on too rarely: what it calls looks like traces of their own. */
export interface Splitter extends Workload {
  /** Calls without the headers. */
  lost: number;
  lostPercent: number;
}

/** Which edges: those that match all that is said. Workloads are written `namespace/name`. */
export interface Which {
  service?: string;
  source?: string;
  destination?: string;
}

export interface Proxy {
  proxy: string;
  namespace: string;
  kind: string;
  version: string;
  identity: string | null;
  connectedAt: number;
  synced: boolean;
  generation: number;
  types: { typeUrl: string; state: "SYNCED" | "STALE" | "NACK"; nack?: string; resources: number }[];
}

export interface Mesh {
  generation: number;
  pending: boolean;
  proxies: Proxy[];
}

export interface Condition {
  type: string;
  status: string;
  reason?: string;
  message?: string;
  observedGeneration?: number;
}

/** A finding about a resource; what it says in full is in the condition's message. */
export interface ValidationMessage {
  type?: { name?: string; code?: string };
  level?: "ERROR" | "WARNING" | "INFO" | "UNKNOWN";
}

export interface Resource {
  apiVersion: string;
  kind: string;
  metadata: { name: string; namespace: string; resourceVersion?: string; generation?: number; [key: string]: unknown };
  spec: any;
  status?: { conditions?: Condition[]; validationMessages?: ValidationMessage[]; observedGeneration?: number };
}

/** A refusal of the server, with its reasons by field. */
export class Refusal extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly causes: { field: string; message: string }[] = [],
  ) {
    super(message);
  }
}

const KEY = "mizzen-token";

/** A token may come in the address' fragment, which no server sees; it is taken out of the address at once. */
export function takeToken(): boolean {
  const match = /(?:^#|&)token=([^&]+)/.exec(location.hash);
  if (match?.[1]) {
    sessionStorage.setItem(KEY, decodeURIComponent(match[1]));
    history.replaceState(null, "", location.pathname + location.search + "#/graph");
  }
  return match !== null;
}

export const hasToken = (): boolean => sessionStorage.getItem(KEY) !== null;
export const setToken = (token: string): void => sessionStorage.setItem(KEY, token.trim());
export const forgetToken = (): void => sessionStorage.removeItem(KEY);

async function call(path: string, init: RequestInit = {}): Promise<{ body: any; warnings: string[] }> {
  const headers = new Headers(init.headers);
  headers.set("authorization", `Bearer ${sessionStorage.getItem(KEY) ?? ""}`);
  const response = await fetch(path, { ...init, headers });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw new Refusal(body.message ?? response.statusText, response.status, body.details?.causes ?? []);
  }
  return { body, warnings: warningsIn(response.headers.get("warning") ?? "") };
}

/** The texts of `299 - "…", 299 - "…"`. */
export const warningsIn = (header: string): string[] =>
  [...header.matchAll(/299 \S+ "((?:[^"\\]|\\.)*)"/g)].map(([, text = ""]) => text.replace(/\\(.)/g, "$1"));

/** Without a window: all that the proxies ever counted. */
export const graph = async (window: number | null): Promise<Span> =>
  (await call(`/api/graph${window === null ? "" : `?window=${window}`}`)).body;

export const series = async (which: Which): Promise<Span[]> =>
  (await call(`/api/series?${new URLSearchParams(which as Record<string, string>)}`)).body;

/** Who split traces in the last so many seconds. */
export const splitters = async (window: number): Promise<Splitter[]> =>
  (await call(`/api/traces?window=${window}`)).body.splitBy;

export const mesh = async (): Promise<Mesh> => (await call("/api/proxies")).body;

/** The labels by which a Kubernetes service chooses its workloads. */
export async function selector(namespace: string, name: string): Promise<Record<string, string> | null> {
  try {
    return (await call(`/api/k8s/api/v1/namespaces/${namespace}/services/${name}`)).body.spec?.selector ?? null;
  } catch (error) {
    if (error instanceof Refusal && error.status === 404) return null;
    throw error;
  }
}

/** The kinds that the console shows and steers. */
export const KINDS: Record<string, { group: string; plural: string }> = {
  VirtualService: { group: "networking.istio.io/v1", plural: "virtualservices" },
  DestinationRule: { group: "networking.istio.io/v1", plural: "destinationrules" },
  Gateway: { group: "networking.istio.io/v1", plural: "gateways" },
  ServiceEntry: { group: "networking.istio.io/v1", plural: "serviceentries" },
  Sidecar: { group: "networking.istio.io/v1", plural: "sidecars" },
  WorkloadEntry: { group: "networking.istio.io/v1", plural: "workloadentries" },
  WorkloadGroup: { group: "networking.istio.io/v1", plural: "workloadgroups" },
  ProxyConfig: { group: "networking.istio.io/v1beta1", plural: "proxyconfigs" },
  AuthorizationPolicy: { group: "security.istio.io/v1", plural: "authorizationpolicies" },
  PeerAuthentication: { group: "security.istio.io/v1", plural: "peerauthentications" },
  RequestAuthentication: { group: "security.istio.io/v1", plural: "requestauthentications" },
  Telemetry: { group: "telemetry.istio.io/v1", plural: "telemetries" },
};

function url(kind: string, namespace?: string, name?: string): string {
  const known = KINDS[kind];
  if (!known) throw new Error(`${kind} is not a kind that the console steers`);
  const where = namespace ? `/namespaces/${namespace}` : "";
  return `/api/k8s/apis/${known.group}${where}/${known.plural}${name ? `/${name}` : ""}`;
}

/** All of a kind; none where the API server has no such kind. */
export async function list(kind: string): Promise<Resource[]> {
  const { body } = await call(url(kind)).catch((error) => {
    if (error instanceof Refusal && error.status === 404) return { body: { items: [] } };
    throw error;
  });
  return body.items.map((item: Resource) => ({ ...item, apiVersion: KINDS[kind]!.group, kind }));
}

export async function read(kind: string, namespace: string, name: string): Promise<Resource | null> {
  try {
    return (await call(url(kind, namespace, name))).body;
  } catch (error) {
    if (error instanceof Refusal && error.status === 404) return null;
    throw error;
  }
}

/** What a person wrote, without what the server added. */
export function written(resource: Resource): Resource {
  const { name, namespace, labels, annotations } = resource.metadata as Record<string, any>;
  const kept = Object.fromEntries(
    Object.entries((annotations ?? {}) as Record<string, string>).filter(([key]) => !key.startsWith("kubectl.kubernetes.io/")),
  );
  return {
    apiVersion: resource.apiVersion,
    kind: resource.kind,
    metadata: { name, namespace, ...(labels && { labels }), ...(Object.keys(kept).length > 0 && { annotations: kept }) },
    spec: resource.spec,
  };
}

/** Creates or replaces; with `dryRun` the server checks everything and stores nothing. Returns its warnings. */
export async function write(resource: Resource, dryRun: boolean): Promise<string[]> {
  const { namespace, name } = resource.metadata;
  const current = await read(resource.kind, namespace, name);
  const query = `?fieldValidation=Strict&fieldManager=mizzen-console${dryRun ? "&dryRun=All" : ""}`;
  const body = current
    ? { ...resource, metadata: { ...resource.metadata, resourceVersion: current.metadata.resourceVersion } }
    : resource;
  const target = current ? url(resource.kind, namespace, name) : url(resource.kind, namespace);
  const { warnings } = await call(target + query, {
    method: current ? "PUT" : "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return warnings;
}

export async function remove(kind: string, namespace: string, name: string): Promise<void> {
  await call(url(kind, namespace, name), { method: "DELETE" });
}
