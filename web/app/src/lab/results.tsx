// What the runs of a comparison have shown: a table, and two plots of it.

import type { JSX } from "preact";
import { useMemo, useState } from "preact/hooks";

import { copyText } from "../answer/copy.tsx";
import type { Comparison } from "./comparison.ts";
import type { MakeOptions } from "./drawing.ts";
import { Plot } from "./plot.tsx";
import { better, COLUMNS, duration, markdownTable, rounded, shortened } from "./runs.ts";
import type { Run, SideFigures } from "./runs.ts";
import { rateColumns, ttftColumns } from "./series.ts";
import type { Column } from "./series.ts";

const HEIGHT = 180;
const BAR_FRACTION = 0.35;
const BAR_MOST_PX = 36;
const NOTE_MS = 2_000;
const BEST: Record<string, "ttftMs" | "perSecond"> = { ttft: "ttftMs", rate: "perSecond" };

export function Results({ comparison, runs }: { comparison: Comparison; runs: readonly Run[] }): JSX.Element | null {
  if (runs.length === 0) return null;
  return (
    <section class="compare-results" aria-labelledby="compare-results-title">
      <div class="compare-results-head">
        <h3 id="compare-results-title">Figures</h3>
        <CopyButton runs={runs} />
        <button class="quiet" id="compare-forget" disabled={comparison.live} onClick={() => comparison.forgetRuns()}>
          Clear
        </button>
      </div>
      <div class="compare-results-body">
        <RunsTable runs={runs} />
        <div class="compare-plots">
          <FirstTokens runs={runs} />
          <Rates comparison={comparison} runs={runs} />
        </div>
      </div>
    </section>
  );
}

function CopyButton({ runs }: { runs: readonly Run[] }): JSX.Element {
  const [said, say] = useState("");
  const take = async (): Promise<void> => {
    say((await copyText(markdownTable(runs))) ? "Copied" : "The browser does not allow it");
    setTimeout(() => say(""), NOTE_MS);
  };
  return (
    <>
      <button class="plain" id="compare-copy" onClick={() => void take()}>
        Copy as Markdown
      </button>
      <span class="hint" role="status">
        {said}
      </span>
    </>
  );
}

function RunsTable({ runs }: { runs: readonly Run[] }): JSX.Element {
  return (
    <div class="compare-table" tabIndex={0} role="group" aria-label="Figures of the runs">
      <table id="compare-runs">
        <thead>
          <tr>
            <th scope="col">Run</th>
            <th scope="col">Model</th>
            {COLUMNS.map(({ name, label }) => (
              <th key={name} scope="col" data-column={name}>
                {label}
              </th>
            ))}
          </tr>
        </thead>
        {[...runs].reverse().map((run) => (
          <tbody key={run.n} data-run={run.n}>
            {run.sides.map((figures, place) => (
              <RunRow key={place} run={run} figures={figures} place={place as 0 | 1} />
            ))}
          </tbody>
        ))}
      </table>
    </div>
  );
}

function RunRow({ run, figures, place }: { run: Run; figures: SideFigures; place: 0 | 1 }): JSX.Element {
  return (
    <tr data-side={place === 0 ? "left" : "right"} data-outcome={figures.outcome}>
      {place === 0 && (
        <th scope="rowgroup" rowSpan={2} title={shortened(run.prompt)}>
          {run.n}
        </th>
      )}
      <td>
        <span class="swatch" aria-hidden="true" />
        {figures.model}
      </td>
      {COLUMNS.map(({ name, of }) => {
        const figure = BEST[name];
        const best = figure !== undefined && better(run, figure) === place;
        return (
          <td key={name} data-column={name} class={best ? "best" : undefined}>
            {of(figures)}
          </td>
        );
      })}
    </tr>
  );
}

// ------------------------------------------------------------------ the plots

const makeFirstTokens: MakeOptions = (colours, paths) => {
  const bar = (align: 1 | -1) => paths.bars?.({ size: [BAR_FRACTION, BAR_MOST_PX], align, gap: 1 });
  const side = (colour: string, align: 1 | -1) => {
    const drawn = bar(align);
    return { stroke: colour, fill: colour, width: 0, points: { show: false }, ...(drawn ? { paths: drawn } : {}) };
  };
  return {
    scales: {
      x: { time: false, range: (_, min, max) => [(min ?? 1) - 0.6, (max ?? 1) + 0.6] },
      y: { range: fromZero },
    },
    axes: [
      { incrs: [1, 2, 5], label: "run", grid: { show: false }, size: 30 },
      { values: (_, ticks) => ticks.map((tick) => durationOf(tick)), size: 56 },
    ],
    cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
    series: [{}, side(colours.left, -1), side(colours.right, 1)],
  };
};

const makeRates: MakeOptions = (colours) => ({
  scales: { x: { time: false, range: (_, __, max) => [0, Math.max(1, max ?? 1)] }, y: { range: fromZero } },
  axes: [{ values: (_, ticks) => ticks.map((tick) => `${tick} s`), size: 30 }, { size: 48 }],
  cursor: { y: false, drag: { x: false, y: false } },
  series: [
    {},
    { stroke: colours.left, width: 2, points: { show: false } },
    { stroke: colours.right, width: 2, dash: [6, 3], points: { show: false } },
  ],
});

function fromZero(_: unknown, __: number | null, max: number | null): [number, number] {
  return [0, max === null || max <= 0 ? 1 : max * 1.1];
}

function durationOf(seconds: number): string {
  return seconds === 0 ? "0" : duration(seconds * 1_000);
}

function FirstTokens({ runs }: { runs: readonly Run[] }): JSX.Element {
  const { x, sides } = ttftColumns(runs);
  const told = JSON.stringify([x, sides]); // the same numbers are not drawn again
  const data = useMemo(() => [x, ...sides] as [number[], Column, Column], [told]);
  const last = runs.at(-1);
  const times = last?.sides.map((side) => duration(side.ttftMs)) ?? [];
  return (
    <Plot
      name="ttft"
      title="Time to the first token"
      summary={`Run ${last?.n}: left ${times[0]}, right ${times[1]}.`}
      data={data}
      make={makeFirstTokens}
      height={HEIGHT}
      keys={[
        { label: "left", mark: "left", shown: durationOf },
        { label: "right", mark: "right", shown: durationOf },
      ]}
    >
      <SidesTable
        head="Run"
        rows={x.map((n, place) => [String(n), ...sides.map((column) => seconds(column[place]))])}
      />
    </Plot>
  );
}

function Rates({ comparison, runs }: { comparison: Comparison; runs: readonly Run[] }): JSX.Element | null {
  const answers = comparison.exchanges?.map(({ samples }) => samples.all) ?? [[], []];
  const { x, rates } = rateColumns(answers);
  const told = `${x.length} ${answers.map((samples) => samples.at(-1)?.t).join(" ")}`;
  const data = useMemo(() => [x, ...rates] as [number[], Column, Column], [told]);
  const last = runs.at(-1);
  const perSecond = last?.sides.map((side) => rounded(side.perSecond)) ?? [];
  return (
    <Plot
      name="rate"
      title="Tokens a second, last run"
      summary={`Left ${perSecond[0]}, right ${perSecond[1]} tokens a second.`}
      data={data}
      make={makeRates}
      height={HEIGHT}
      keys={[
        { label: "left", mark: "left", shown: rounded },
        { label: "right", mark: "right", shown: rounded },
      ]}
    >
      <SidesTable
        head="Second"
        rows={x.map((at, place) => [rounded(at), ...rates.map((column) => rounded(column[place] ?? null))])}
      />
    </Plot>
  );
}

function seconds(value: number | null | undefined): string {
  return duration(value === null || value === undefined ? null : value * 1_000);
}

function SidesTable({ head, rows }: { head: string; rows: readonly (readonly string[])[] }): JSX.Element {
  return (
    <table>
      <thead>
        <tr>
          {[head, "Left", "Right"].map((label) => (
            <th key={label} scope="col">
              {label}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {rows.map((cells) => (
          <tr key={cells[0]}>
            {cells.map((text, place) => (
              <td key={place}>{text}</td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}
