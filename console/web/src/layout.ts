// Where the graph's nodes stand: layers from left to right, by dagre. Pure.

import dagre from "@dagrejs/dagre";
import type { Edge, Workload } from "./api";
import { id } from "./figures";

export interface Node {
  id: string;
  workload: Workload;
  x: number;
  y: number;
}

export interface Path {
  edge: Edge;
  points: { x: number; y: number }[];
  label: { x: number; y: number };
}

export interface Layout {
  nodes: Node[];
  paths: Path[];
  width: number;
  height: number;
}

export const NODE = { width: 158, height: 54 };

/** One edge between two workloads, whatever names they were called by. */
export function merged(edges: Edge[]): Edge[] {
  const pairs = new Map<string, Edge>();
  for (const edge of edges) {
    const key = `${id(edge.source)}>${id(edge.destination)}`;
    const other = pairs.get(key);
    if (!other) {
      pairs.set(key, edge);
      continue;
    }
    const rate = other.rate + edge.rate;
    pairs.set(key, {
      ...(other.rate >= edge.rate ? other : edge),
      rate,
      errorPercent: rate > 0 ? (other.rate * other.errorPercent + edge.rate * edge.errorPercent) / rate : 0,
      bytesRate: other.bytesRate + edge.bytesRate,
      mutualTls: other.mutualTls === null ? edge.mutualTls : edge.mutualTls === null ? other.mutualTls : other.mutualTls && edge.mutualTls,
    });
  }
  return [...pairs.values()];
}

export function layout(edges: Edge[]): Layout {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "LR", nodesep: 34, ranksep: 128, marginx: 24, marginy: 24 });
  graph.setDefaultEdgeLabel(() => ({}));
  const workloads = new Map<string, Workload>();
  const shown = merged(edges).filter((edge) => id(edge.source) !== id(edge.destination));
  // A fixed order of insertion keeps the picture still while figures move.
  shown.sort((a, b) => `${id(a.source)}>${id(a.destination)}`.localeCompare(`${id(b.source)}>${id(b.destination)}`));
  for (const edge of shown) {
    workloads.set(id(edge.source), edge.source);
    workloads.set(id(edge.destination), edge.destination);
  }
  for (const key of [...workloads.keys()].sort()) graph.setNode(key, { ...NODE });
  for (const edge of shown) graph.setEdge(id(edge.source), id(edge.destination), { width: 76, height: 34, labelpos: "c" });
  dagre.layout(graph);
  const size = graph.graph();
  return {
    nodes: [...workloads].map(([key, workload]) => {
      const { x, y } = graph.node(key);
      return { id: key, workload, x, y };
    }),
    paths: shown.map((edge) => {
      const placed = graph.edge(id(edge.source), id(edge.destination)) as any;
      return { edge, points: placed.points, label: { x: placed.x, y: placed.y } };
    }),
    width: size.width ?? 0,
    height: size.height ?? 0,
  };
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
