// Numbers as a plot wants them: columns of one length, x first, null where there is nothing.

import type { Arrival } from "./gaps.ts";
import type { Run } from "./runs.ts";
import type { Sample } from "./samples.ts";

export type Column = (number | null)[];

const STEPS_S = [0.25, 0.5, 1, 2, 5, 10, 30, 60, 300];
const POINTS_MOST = 120;

/** The narrowest step, in seconds, with which `spanMs` fits into the plot. */
export function stepFor(spanMs: number): number {
  return STEPS_S.find((step) => spanMs / 1_000 / step <= POINTS_MOST) ?? (STEPS_S.at(-1) as number);
}

/**
 * Pieces a second in each step of time: x is the step's middle in seconds since the question, and then a column for
 * each answer.  Nothing stands before an answer's first piece and after its last.
 */
export function rateColumns(answers: readonly (readonly Sample[])[]): { x: number[]; rates: Column[]; step: number } {
  const spanMs = Math.max(0, ...answers.map((samples) => samples.at(-1)?.t ?? 0));
  const step = stepFor(spanMs);
  const count = spanMs === 0 ? 0 : Math.max(1, Math.ceil(spanMs / 1_000 / step));
  const x = Array.from({ length: count }, (_, place) => (place + 0.5) * step);
  return { x, rates: answers.map((samples) => ratesOf(samples, step, count)), step };
}

/**
 * The steps in which the answer begins and ends are not whole: there a whole step's time from the first piece on, or up
 * to the last, is looked at.  Else a single piece in a sliver of time would look like a burst.
 */
function ratesOf(samples: readonly Sample[], step: number, count: number): Column {
  const [first, last] = [samples[0], samples.at(-1)];
  if (first === undefined || last === undefined) return new Array<null>(count).fill(null);
  const stepMs = step * 1_000;
  return Array.from({ length: count }, (_, place) => {
    let [from, to] = [place * stepMs, (place + 1) * stepMs];
    if (to <= first.t || from >= last.t) return null;
    if (from < first.t) [from, to] = [first.t, first.t + stepMs];
    if (to > last.t) [from, to] = [Math.max(first.t, last.t - stepMs), last.t];
    if (to <= from) return null;
    // A snapshot may say less than was shown: that is no negative speed.
    return (Math.max(0, piecesAt(samples, to) - piecesAt(samples, from)) * 1_000) / (to - from);
  });
}

/** What had come by `t`, between two samples as the straight line has it. */
export function piecesAt(samples: readonly Sample[], t: number): number {
  let [low, high] = [0, samples.length]; // the first sample after `t` lies in low..high
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((samples[middle] as Sample).t <= t) low = middle + 1;
    else high = middle;
  }
  const [before, after] = [samples[low - 1], samples[low]];
  if (before === undefined) return 0;
  if (after === undefined) return before.pieces;
  return before.pieces + ((after.pieces - before.pieces) * (t - before.t)) / (after.t - before.t);
}

/** Time to the first token in seconds, a column a side; x is the run's number. */
export function ttftColumns(runs: readonly Run[]): { x: number[]; sides: [Column, Column] } {
  const side = (which: 0 | 1): Column => runs.map((run) => inSeconds(run.sides[which].ttftMs));
  return { x: runs.map((run) => run.n), sides: [side(0), side(1)] };
}

function inSeconds(ms: number | null): number | null {
  return ms === null ? null : ms / 1_000;
}

/** Seconds since the first arrival, the gap before each in ms, and the entries it brought. */
export function gapColumns(arrivals: readonly Arrival[]): { x: number[]; gaps: Column; entries: Column } {
  const first = arrivals[0]?.at ?? 0;
  return {
    x: arrivals.map((arrival) => (arrival.at - first) / 1_000),
    gaps: arrivals.map((arrival) => arrival.gapMs),
    entries: arrivals.map((arrival) => arrival.entries),
  };
}
