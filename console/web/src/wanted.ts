// What somebody wants in the place of what is stored.

import { useEffect, useRef, useState } from "preact/hooks";

const same = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);

/** What is wanted follows what is stored until it is touched; `rebase` says what becomes of it when other is stored then. */
export function useWanted<T>(stored: T, rebase: (wanted: T, before: T, after: T) => T = (wanted, before, after) => (same(wanted, before) ? after : wanted)) {
  const [wanted, want] = useState<T>(stored);
  const known = useRef(stored);
  useEffect(() => {
    const before = known.current;
    known.current = stored;
    want((now) => rebase(now, before, stored));
  }, [JSON.stringify(stored)]);
  return [wanted, want] as const;
}
