// What all views look at: the edges, refreshed every two seconds, and their past.

import { signal } from "@preact/signals";
import { type Edge, Refusal, forgetToken, graph, hasToken } from "./api";

export interface Moment {
  time: number;
  edges: Edge[];
}

export const edges = signal<Edge[]>([]);
export const past = signal<Moment[]>([]);
export const trouble = signal<string | null>(null);
export const signedIn = signal(hasToken());
export const view = signal(location.hash || "#/graph");

const KEPT = 300;

export async function refresh(): Promise<void> {
  if (!signedIn.value) return;
  try {
    const found = await graph(10);
    edges.value = found;
    past.value = [...past.value.slice(-KEPT + 1), { time: Date.now() / 1000, edges: found }];
    trouble.value = null;
  } catch (error) {
    if (error instanceof Refusal && error.status === 401) signOut("This token is not known here.");
    else trouble.value = error instanceof Error ? error.message : String(error);
  }
}

export function signOut(why: string | null = null): void {
  forgetToken();
  signedIn.value = false;
  trouble.value = why;
}
