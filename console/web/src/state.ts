// What all views look at: the edges of the chosen time, refreshed every two seconds; who is signed in; what was changed.

import { computed, signal } from "@preact/signals";
import { forgetToken, graph, hasToken, mesh, type Mesh, Refusal, type Resource, type Span, type Splitter, splitters } from "./api";

/** Seconds, or everything since the proxies began to count. */
export type Window = number | null;

export const WINDOWS: [Window, string][] = [[10, "10 s"], [60, "1 min"], [300, "5 min"], [null, "all"]];

export const window_ = signal<Window>(10);
export const span = signal<Span | null>(null);
export const edges = computed(() => span.value?.edges ?? []);
export const seconds = computed(() => span.value?.seconds ?? 0);
/** Numbers instead of rates are shown where everything since the beginning is. */
export const total = computed(() => window_.value === null);
export const proxies = signal<Mesh | null>(null);
/** Who splits traces; for as long as anything is remembered where everything is shown. */
export const splitBy = signal<Splitter[]>([]);
const LONGEST = 600;
export const trouble = signal<string | null>(null);
export const signedIn = signal(hasToken());
export const view = signal(location.hash || "#/graph");
/** Counts the refreshes. */
export const beat = signal(0);

/** Whether every proxy has accepted what it was sent. */
export const settled = (m: Mesh): boolean => !m.pending && m.proxies.every((p) => p.synced && p.generation >= m.generation);

export async function refresh(): Promise<void> {
  if (!signedIn.value) return;
  try {
    const wanted = window_.value;
    const [found, all, careless] = await Promise.all([graph(wanted), mesh(), splitters(wanted ?? LONGEST)]);
    if (wanted !== window_.value) return;
    span.value = found;
    proxies.value = all;
    splitBy.value = careless;
    trouble.value = null;
    beat.value += 1;
  } catch (error) {
    if (error instanceof Refusal && error.status === 401) signOut("The API server does not know this token.");
    else trouble.value = error instanceof Refusal ? error.message : "The control plane does not answer.";
  }
}

export function signOut(why: string | null = null): void {
  forgetToken();
  signedIn.value = false;
  span.value = null;
  trouble.value = why;
}

/** A change that was made here, with both states, so that it can be taken back. */
export interface Change {
  at: number;
  before: Resource | null;
  after: Resource | null;
  undone: boolean;
}

const CHANGES = "mizzen-changes";

export const changes = signal<Change[]>(JSON.parse(sessionStorage.getItem(CHANGES) ?? "[]"));

export function remember(list: Change[]): void {
  changes.value = list.slice(0, 50);
  sessionStorage.setItem(CHANGES, JSON.stringify(changes.value));
}
