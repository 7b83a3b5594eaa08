// How evenly a stream came: its gaps over time, the figures, and what interrupted it.

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";

import type { MakeOptions, Moment } from "./drawing.ts";
import { shortId } from "./frames.ts";
import { gapFigures, histogram } from "./gaps.ts";
import type { Arrival, GapFigures as Figures, Interruption, Track } from "./gaps.ts";
import { Plot } from "./plot.tsx";
import type { PlotKey } from "./plot.tsx";
import { duration, rounded } from "./runs.ts";
import { gapColumns } from "./series.ts";
import type { Column } from "./series.ts";

const HEIGHT = 150;

export interface TimingProps {
  streams: readonly string[];
  stream: string; // the chosen one; "": the newest
  track: Track | undefined;
  onChoose: (stream: string) => void;
}

export function Timing({ streams, stream, track, onChoose }: TimingProps): JSX.Element {
  const arrivals = track?.arrivals.toArray() ?? [];
  return (
    <div class="timing">
      <div class="timing-head">
        <label class="timing-stream">
          Stream
          <select id="gaps-stream" value={stream} onChange={(event) => onChoose(event.currentTarget.value)}>
            <option value="">the newest</option>
            {[...streams].reverse().map((id) => (
              <option key={id} value={id}>
                {shortId(id)}
              </option>
            ))}
          </select>
        </label>
        <GapFigures figures={gapFigures(arrivals)} />
      </div>
      {track === undefined ? (
        <p class="hint">The timeline begins with the next answer.</p>
      ) : (
        <Timeline arrivals={arrivals} interruptions={track.interruptions.toArray()} />
      )}
    </div>
  );
}

function GapFigures({ figures }: { figures: Figures }): JSX.Element {
  const shown: [string, string, string][] = [
    ["p50", "median gap", duration(figures.p50)],
    ["p95", "95 of 100", duration(figures.p95)],
    ["max", "longest", duration(figures.max)],
    ["frames", "frames", String(figures.frames)],
    ["entries", "entries", String(figures.entries)],
    ["rate", "entries/s", rounded(figures.perSecond)],
  ];
  return (
    <dl class="timing-figures">
      {shown.map(([name, label, text]) => (
        <div key={name}>
          <dt>{label}</dt>
          <dd data-figure={name}>{text}</dd>
        </div>
      ))}
    </dl>
  );
}

const makeGaps: MakeOptions = (colours, paths) => {
  const bars = paths.bars?.({ size: [0.9, 12, 1] });
  // A gap is as wide as it is high: it is drawn over the time that it lasted.
  const steps = paths.stepped?.({ align: -1 });
  return {
    scales: {
      x: { time: false, range: (_, __, max) => [0, Math.max(1, max ?? 1)] },
      y: { range: (_, __, max) => [0, Math.max(1, (max ?? 1) * 1.1)] },
      entries: { range: (_, __, max) => [0, Math.max(4, (max ?? 1) * 2)] },
    },
    axes: [
      { values: (_, ticks) => ticks.map((tick) => `${tick} s`), size: 30 },
      { values: (_, ticks) => ticks.map((tick) => `${tick} ms`), size: 64 },
      { scale: "entries", side: 1, size: 36, grid: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100, 500] },
    ],
    cursor: { y: false, drag: { x: true, y: false } },
    // The line lies over the bars.
    series: [
      {},
      {
        scale: "entries",
        stroke: colours.wash,
        fill: colours.wash,
        width: 0,
        points: { show: false },
        ...(bars ? { paths: bars } : {}),
      },
      { stroke: colours.left, width: 1.5, points: { show: false }, ...(steps ? { paths: steps } : {}) },
    ],
  };
};

const MOMENT_COLOURS: Record<Interruption["kind"], Moment["colour"] & PlotKey["mark"]> = {
  seam: "warn",
  lost: "alarm",
  back: "right",
};

const KEYS: readonly PlotKey[] = [
  { label: "entries", mark: "wash", shown: String },
  { label: "gap", mark: "left", shown: duration },
];
const KINDS: readonly Interruption["kind"][] = ["lost", "back", "seam"];

interface TimelineProps {
  arrivals: readonly Arrival[];
  interruptions: readonly Interruption[];
}

function Timeline({ arrivals, interruptions }: TimelineProps): JSX.Element {
  const figures = gapFigures(arrivals);
  const happened = KINDS.filter((kind) => interruptions.some((one) => one.kind === kind)).map(
    (kind): PlotKey => ({ label: kind, mark: MOMENT_COLOURS[kind] }),
  );
  const [median, most, longest] = [figures.p50, figures.p95, figures.max].map(duration);
  const first = arrivals[0]?.at ?? 0;
  const { x, gaps, entries } = gapColumns(arrivals);
  const told = `${first} ${arrivals.length} ${arrivals.at(-1)?.at}`;
  const data = useMemo(() => [x, entries, gaps] as [number[], Column, Column], [told]);
  const moments = useMemo(
    () => interruptions.map(({ at, kind }) => ({ x: (at - first) / 1_000, colour: MOMENT_COLOURS[kind] })),
    [first, interruptions.length],
  );
  return (
    <>
      <Plot
        name="gaps"
        title="Gap before each frame"
        summary={`Median ${median}, 95 of 100 within ${most}, longest ${longest}.`}
        data={data}
        moments={moments}
        make={makeGaps}
        height={HEIGHT}
        keys={[...KEYS, ...happened]}
      >
        <GapTable rows={histogram(arrivals)} />
      </Plot>
      <Interruptions interruptions={interruptions} first={first} />
    </>
  );
}

function GapTable({ rows }: { rows: readonly { label: string; count: number }[] }): JSX.Element {
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">Gap</th>
          <th scope="col">Frames</th>
        </tr>
      </thead>
      <tbody>
        {rows.map(({ label, count }) => (
          <tr key={label}>
            <td>{label}</td>
            <td>{count}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

interface InterruptionsProps {
  interruptions: readonly Interruption[];
  /** When the timeline begins. */
  first: number;
}

function Interruptions({ interruptions, first }: InterruptionsProps): JSX.Element | null {
  if (interruptions.length === 0) return null;
  return (
    <ul class="interruptions">
      {interruptions.map(({ at, kind, label }, place) => (
        <li key={place} data-kind={kind}>
          {`${((at - first) / 1_000).toFixed(2)} s: ${label}`}
        </li>
      ))}
    </ul>
  );
}
