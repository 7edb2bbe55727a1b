// Where the graph's nodes stand: layers from left to right, by dagre. Pure.

import dagre from "@dagrejs/dagre";
import type { Edge, Workload } from "./api";
import { id, isUnknown, shortHost } from "./figures";

type Graph = InstanceType<typeof dagre.graphlib.Graph>;

/** What a node is drawn as. A service stands for the requests to it that no workload of it got. */
export type Kind = "gateway" | "workload" | "database" | "service" | "outside";

export interface Node {
  id: string;
  kind: Kind;
  workload: Workload;
  x: number;
  y: number;
}

/** All that flowed between two nodes, by whatever names the one called the other. */
export interface Path {
  key: string;
  from: string;
  to: string;
  edges: Edge[];
  points: { x: number; y: number }[];
  label: { x: number; y: number };
}

export interface Layout {
  nodes: Node[];
  paths: Path[];
  width: number;
  height: number;
}

export const NODE = { width: 206, height: 58 };
export const LABEL = { width: 92, height: 40 };

/** Who was called: a workload, or the service where the request reached none. */
export function target(edge: Edge): { id: string; workload: Workload; reached: boolean } {
  if (!isUnknown(edge.destination)) return { id: id(edge.destination), workload: edge.destination, reached: true };
  if (!edge.service || edge.service === "unknown") return { id: "unknown/unknown", workload: { ...edge.destination, name: "unknown" }, reached: false };
  const [name = edge.service, namespace = ""] = shortHost(edge.service).split(".");
  const inside = edge.service.includes(".svc.");
  return { id: `service/${edge.service}`, workload: { name: inside ? name : edge.service, namespace: inside ? namespace : "", app: name, version: "" }, reached: false };
}

export function layout(edges: Edge[]): Layout {
  const workloads = new Map<string, Workload>();
  const pairs = new Map<string, { from: string; to: string; edges: Edge[] }>();
  // A fixed order of insertion keeps the picture still while figures move.
  const ordered = [...edges].sort((a, b) => `${id(a.source)}>${target(a).id}`.localeCompare(`${id(b.source)}>${target(b).id}`));
  for (const edge of ordered) {
    const [from, to] = [id(edge.source), target(edge)];
    if (from === to.id) continue;
    workloads.set(from, edge.source);
    workloads.set(to.id, to.workload);
    const pair = pairs.get(`${from}>${to.id}`) ?? { from, to: to.id, edges: [] };
    pair.edges.push(edge);
    pairs.set(`${from}>${to.id}`, pair);
  }
  const kinds = kindsOf(workloads, [...pairs.values()]);
  let graph = place([...workloads.keys()], [...pairs.values()], []);
  const held = misplaced(graph, kinds);
  if (held.length > 0) graph = place([...workloads.keys()], [...pairs.values()], held);
  const size = graph.graph() as { width?: number; height?: number };
  return {
    nodes: [...workloads].map(([key, workload]) => ({ id: key, kind: kinds.get(key) ?? "workload", workload, ...at(graph, key) })),
    paths: [...pairs].map(([key, pair]) => {
      const placed = graph.edge(pair.from, pair.to) as any;
      return { key, ...pair, points: between(pair, placed.points, graph), label: { x: placed.x, y: placed.y } };
    }),
    width: size.width ?? 0,
    height: size.height ?? 0,
  };
}

const at = (graph: Graph, key: string): { x: number; y: number } => {
  const { x, y } = graph.node(key) as { x: number; y: number };
  return { x, y };
};

/** `held` are pairs that are not drawn: the first is to stand left of the second. */
function place(keys: string[], pairs: { from: string; to: string }[], held: [string, string][]): Graph {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "LR", nodesep: 30, ranksep: 118, edgesep: 18, marginx: 20, marginy: 20 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const key of [...keys].sort()) graph.setNode(key, { ...NODE });
  for (const { from, to } of pairs) graph.setEdge(from, to, { ...LABEL, labelpos: "c" });
  for (const [from, to] of held) {
    if (!graph.hasEdge(from, to) && !graph.hasEdge(to, from)) graph.setEdge(from, to, { width: 0, height: 0, weight: 0, minlen: 2 });
  }
  dagre.layout(graph);
  return graph;
}

/** Databases are to stand right of everything else, gateways left: what must be held apart for that. */
function misplaced(graph: Graph, kinds: Map<string, Kind>): [string, string][] {
  const of = (...wanted: Kind[]) => [...kinds].filter(([, kind]) => wanted.includes(kind)).map(([key]) => key);
  const pairs = [
    ...of("database").flatMap((database) => of("workload", "service", "outside").map((other): [string, string] => [other, database])),
    ...of("gateway").flatMap((gateway) => of("workload", "service", "database").map((other): [string, string] => [gateway, other])),
  ];
  return pairs.filter(([left, right]) => at(graph, left).x >= at(graph, right).x);
}

function kindsOf(workloads: Map<string, Workload>, pairs: { from: string; to: string; edges: Edge[] }[]): Map<string, Kind> {
  const kinds = new Map<string, Kind>();
  for (const [key, workload] of workloads) {
    const inward = pairs.filter((pair) => pair.to === key).flatMap((pair) => pair.edges);
    const outward = pairs.some((pair) => pair.from === key);
    const isDatabase = inward.length > 0 && !outward && inward.every((edge) => edge.protocol === "tcp");
    const kind: Kind = key.startsWith("service/")
      ? inward.some((edge) => edge.service.includes(".svc.")) ? "service" : "outside"
      : isUnknown(workload) ? "outside"
      : /gateway/.test(workload.app + workload.name) && outward ? "gateway"
      : isDatabase ? "database"
      : "workload";
    kinds.set(key, kind);
  }
  return kinds;
}

/** Edges leave on the right side of a node and arrive on the left one where that is the way. */
function between(pair: { from: string; to: string }, points: { x: number; y: number }[], graph: Graph): { x: number; y: number }[] {
  const [from, to] = [at(graph, pair.from), at(graph, pair.to)];
  if (from.x >= to.x) return points;
  return [{ x: from.x + NODE.width / 2, y: from.y }, ...points.slice(1, -1), { x: to.x - NODE.width / 2, y: to.y }];
}

/** A smooth curve through the points. */
export function curve(points: { x: number; y: number }[]): string {
  const [first, ...rest] = points;
  if (!first) return "";
  let path = `M${first.x},${first.y}`;
  let last = first;
  for (const point of rest) {
    const middle = (last.x + point.x) / 2;
    path += ` C${middle},${last.y} ${middle},${point.y} ${point.x},${point.y}`;
    last = point;
  }
  return path;
}
