// Rate, errors and p99 of some edges over the last ten minutes.

import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { series, type Span, type Which } from "./api";
import { sum } from "./figures";
import { beat } from "./state";

const ink = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const clock = (seconds: number): string => new Date(seconds * 1000).toLocaleTimeString("en-GB");

export function Plot({ which, tcp = false }: { which: Which; tcp?: boolean }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [spans, setSpans] = useState<Span[]>([]);
  const key = JSON.stringify(which);
  useEffect(() => {
    let current = true;
    series(which).then((found) => current && setSpans(found), () => undefined);
    return () => void (current = false);
  }, [key, beat.value]);
  const rows = spans.map((span) => ({ time: Date.now() / 1000 - span.ago, summary: sum(span.edges, span.seconds) }));
  const data: uPlot.AlignedData = [
    rows.map((r) => r.time),
    rows.map((r) => (tcp ? r.summary.bytes : r.summary.requests) / r.summary.seconds),
    rows.map((r) => r.summary.failed / r.summary.seconds),
    rows.map((r) => r.summary.p99Ms),
  ];
  useEffect(() => {
    if (!place.current) return;
    const axis = { stroke: ink("--soft"), grid: { stroke: ink("--line"), width: 1 }, ticks: { show: false }, size: 42, font: "11px system-ui" };
    const fromZero = { range: (_u: uPlot, _min: number, max: number): [number, number] => [0, Math.max(tcp ? 100 : 1, (max || 0) * 1.15)] };
    const point = { points: { show: false } };
    plot.current = new uPlot(
      {
        width: place.current.clientWidth || 320,
        height: 170,
        legend: { show: true, live: false },
        cursor: { drag: { x: false, y: false } },
        scales: { ms: fromZero, y: fromZero },
        series: [
          {},
          { label: tcp ? "bytes/s" : "requests/s", stroke: ink("--accent"), fill: `${ink("--accent")}22`, width: 2, ...point },
          { label: "errors/s", stroke: ink("--bad"), fill: `${ink("--bad")}33`, width: 1.5, show: !tcp, ...point },
          { label: "p99 ms", stroke: ink("--warn"), width: 1.5, scale: "ms", dash: [4, 3], show: !tcp, ...point },
        ],
        axes: [{ ...axis, size: 24, values: (_u, times) => times.map(clock) }, axis, { ...axis, scale: "ms", side: 1, grid: { show: false }, show: !tcp }],
      },
      data,
      place.current,
    );
    const fit = new ResizeObserver(([entry]) => entry && plot.current?.setSize({ width: entry.contentRect.width, height: 170 }));
    fit.observe(place.current);
    return () => {
      fit.disconnect();
      plot.current?.destroy();
    };
  }, [key]);
  useEffect(() => plot.current?.setData(data), [spans]);
  return <div class="plot" ref={place} />;
}
