// Rate, errors and p99 of some edges over the last minutes.

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { Edge } from "./api";
import { sum } from "./figures";
import { past } from "./state";

const ink = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function Plot({ of }: { of: (edge: Edge) => boolean }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const moments = past.value;
  const summaries = moments.map((moment) => sum(moment.edges.filter(of)));
  const data: uPlot.AlignedData = [
    moments.map((moment) => moment.time),
    summaries.map((s) => s.rate),
    summaries.map((s) => (s.rate * s.errorPercent) / 100),
    summaries.map((s) => s.p99Ms),
  ];
  useEffect(() => {
    if (!place.current) return;
    const axis = { stroke: ink("--ink"), grid: { stroke: ink("--line"), width: 1 }, size: 44 };
    plot.current = new uPlot(
      {
        width: place.current.clientWidth || 320,
        height: 180,
        legend: { show: true, live: false },
        cursor: { drag: { x: false, y: false } },
        scales: { ms: { range: (_u, _min, max) => [0, Math.max(1, max * 1.1)] }, y: { range: (_u, _min, max) => [0, Math.max(1, max * 1.1)] } },
        series: [
          {},
          { label: "requests/s", stroke: ink("--accent"), width: 2 },
          { label: "errors/s", stroke: ink("--bad"), width: 2 },
          { label: "p99 ms", stroke: ink("--warn"), width: 1, scale: "ms", dash: [4, 3] },
        ],
        axes: [{ ...axis, size: 28 }, axis, { ...axis, scale: "ms", side: 1, grid: { show: false } }],
      },
      data,
      place.current,
    );
    return () => plot.current?.destroy();
  }, []);
  useEffect(() => plot.current?.setData(data), [moments]);
  return <div class="plot" ref={place} />;
}
