// How evenly an answer comes: the time between one frame with content and the next, for each stream.
//
// A frame may carry several entries, merged on the way because the reader or the network was slow: so a gap has the
// number of entries beside it.  What interrupts an answer (a seam, a lost connection) is kept with its time, so that a
// long gap can be told from a slow model.  Times are ms of one clock.

import { entriesOf } from "./frames.ts";
import type { Row } from "./frames.ts";
import { Ring } from "./ring.ts";

export interface Arrival {
  readonly at: number;
  readonly gapMs: number | null; // null: the first of its stream
  readonly entries: number;
}

export interface Interruption {
  readonly at: number;
  readonly kind: "seam" | "lost" | "back";
  readonly label: string;
}

export interface GapFigures {
  readonly frames: number;
  readonly entries: number;
  readonly p50: number | null;
  readonly p95: number | null;
  readonly max: number | null;
  readonly perSecond: number | null; // entries a second, from the first frame to the last
}

const CONTENT: ReadonlySet<string> = new Set(["delta_text", "delta_thinking", "delta_tool_call", "delta_refusal"]);
const ARRIVALS_MOST = 2_000;
const INTERRUPTIONS_MOST = 100;
const STREAMS_MOST = 32;
const STEPS_MS = [5, 10, 20, 50, 100, 200, 500, 1_000, 5_000];

/** One stream's arrivals. */
export class Track {
  readonly arrivals = new Ring<Arrival>(ARRIVALS_MOST);
  readonly interruptions = new Ring<Interruption>(INTERRUPTIONS_MOST);
  ended = false;
  #lastAt: number | null = null;

  note(row: Row): void {
    const frame = row.frame;
    if (frame === null) return;
    if (CONTENT.has(row.type)) {
      const gapMs = this.#lastAt === null ? null : row.at - this.#lastAt;
      this.#lastAt = row.at;
      this.arrivals.push({ at: row.at, gapMs, entries: entriesOf(row) ?? 1 });
    } else if (row.type === "seam") {
      this.interruptions.push({ at: row.at, kind: "seam", label: seamLabel(frame["reason"], frame["continuation"]) });
    } else if (row.type === "stream_end") {
      this.ended = true;
    }
  }
}

function seamLabel(reason: unknown, continuation: unknown): string {
  const why = typeof reason === "string" ? reason.replaceAll("_", " ") : "another run";
  return typeof continuation === "string" ? `seam: ${why}, ${continuation}` : `seam: ${why}`;
}

/** The tracks of the streams seen last. */
export class Tracks {
  readonly #tracks = new Map<string, Track>();

  /** Streams with content, the newest last. */
  get streams(): string[] {
    return [...this.#tracks.keys()];
  }

  of(stream: string): Track | undefined {
    return this.#tracks.get(stream);
  }

  note(row: Row): void {
    if (row.direction !== "in" || row.stream === null) return;
    let track = this.#tracks.get(row.stream);
    if (track === undefined) {
      if (!CONTENT.has(row.type)) return;
      track = new Track();
      this.#tracks.set(row.stream, track);
      const oldest = this.#tracks.keys().next().value;
      if (this.#tracks.size > STREAMS_MOST && oldest !== undefined) this.#tracks.delete(oldest);
    }
    track.note(row);
  }

  /** The connection was lost, or is back: that concerns whatever was still coming. */
  interrupted(at: number, kind: "lost" | "back", label: string): void {
    for (const track of this.#tracks.values()) {
      if (!track.ended) track.interruptions.push({ at, kind, label });
    }
  }

  clear(): void {
    this.#tracks.clear();
  }
}

/** The value below which a share of the values lies (nearest rank), or null where there is none.  `sorted` ascends. */
export function percentile(sorted: readonly number[], share: number): number | null {
  if (sorted.length === 0) return null;
  const rank = Math.max(1, Math.ceil(share * sorted.length));
  return sorted[rank - 1] ?? null;
}

export function gapFigures(arrivals: readonly Arrival[]): GapFigures {
  const sorted = gapsOf(arrivals).sort((one, other) => one - other);
  const entries = arrivals.reduce((sum, arrival) => sum + arrival.entries, 0);
  const [first, last] = [arrivals[0], arrivals.at(-1)];
  const spanMs = first === undefined || last === undefined ? 0 : last.at - first.at;
  return {
    frames: arrivals.length,
    entries,
    p50: percentile(sorted, 0.5),
    p95: percentile(sorted, 0.95),
    max: sorted.at(-1) ?? null,
    // What the first frame brought took its time before the span began.
    perSecond: spanMs > 0 ? ((entries - (first?.entries ?? 0)) * 1_000) / spanMs : null,
  };
}

/** How many gaps lie in each range, for who cannot see the plot.  Empty ranges at both ends are left out. */
export function histogram(arrivals: readonly Arrival[]): { label: string; count: number }[] {
  const counts = new Array<number>(STEPS_MS.length + 1).fill(0);
  for (const gap of gapsOf(arrivals)) {
    const step = STEPS_MS.findIndex((most) => gap < most);
    const place = step < 0 ? STEPS_MS.length : step;
    counts[place] = (counts[place] ?? 0) + 1;
  }
  const rows = counts.map((count, place) => ({ label: stepLabel(place), count }));
  const first = rows.findIndex((row) => row.count > 0);
  return first < 0 ? [] : rows.slice(first, rows.findLastIndex((row) => row.count > 0) + 1);
}

function stepLabel(place: number): string {
  const [from, to] = [STEPS_MS[place - 1], STEPS_MS[place]];
  if (from === undefined) return `under ${to} ms`;
  return to === undefined ? `${from} ms and more` : `${from} to ${to} ms`;
}

function gapsOf(arrivals: readonly Arrival[]): number[] {
  return arrivals.flatMap((arrival) => (arrival.gapMs === null ? [] : [arrival.gapMs]));
}
