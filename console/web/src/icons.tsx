// Small drawings, in the colour of the text around them.

export const Lock = ({ closed }: { closed: boolean }) => (
  <svg class={`icon lock ${closed ? "closed" : "open"}`} viewBox="0 0 12 14" width="11" height="13" role="img" aria-label={closed ? "mutual TLS" : "plaintext"}>
    <title>{closed ? "mutual TLS" : "plaintext"}</title>
    <LockShape closed={closed} />
  </svg>
);

export const LockShape = ({ closed }: { closed: boolean }) => (
  <>
    <path d={closed ? "M3.2 6.5V4a2.8 2.8 0 0 1 5.6 0v2.5" : "M3.2 6.5V3.6a2.8 2.8 0 0 1 5.4-.9"} fill="none" stroke="currentColor" stroke-width="1.5" />
    <rect x="1.5" y="6" width="9" height="7" rx="1.4" fill="currentColor" />
  </>
);

export const Sail = () => (
  <svg class="sail" viewBox="0 0 24 24" width="24" height="24" aria-hidden="true">
    <path d="M12 2v16M12 3l8 12h-8zM12 7l-6 8h6M3 19c3 2.5 15 2.5 18 0" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linejoin="round" stroke-linecap="round" />
  </svg>
);

/** What kind of node it is, drawn in a field of 20 by 20. */
export const Mark = ({ kind }: { kind: string }) => {
  switch (kind) {
    case "gateway":
      return <path d="M2 10h11M9 5l5 5-5 5M17 3v14" />;
    case "database":
      return <path d="M3 5c0-3 14-3 14 0v10c0 3-14 3-14 0zM3 5c0 3 14 3 14 0M3 10c0 3 14 3 14 0" />;
    case "service":
      return <path d="M10 2l7 4v8l-7 4-7-4V6z" stroke-dasharray="2 1.6" />;
    case "outside":
      return <path d="M10 2a8 8 0 1 0 .01 0M2 10h16M10 2c-5 5-5 11 0 16 5-5 5-11 0-16" />;
    default:
      return <path d="M10 2l7 4v8l-7 4-7-4V6zM3 6l7 4 7-4M10 10v8" />;
  }
};
