// The figures of both instruments: gaps, speeds, runs, and what the plots are drawn from; and the sizes of the drawer.

import { describe, expect, test } from "vitest";

import { keyed, mostOf, placedIn, resized, sizeOf, storedDock, storeDock } from "../src/lab/dock.ts";
import type { Dock } from "../src/lab/dock.ts";
import { fieldsFor, paramsOf } from "../src/lab/fields.ts";
import { frameRow } from "../src/lab/frames.ts";
import { gapFigures, histogram, percentile, Track, Tracks } from "../src/lab/gaps.ts";
import type { FrameLike, Row } from "../src/lab/frames.ts";
import { better, duration, markdownTable, rounded, shortened } from "../src/lab/runs.ts";
import type { Run, SideFigures } from "../src/lab/runs.ts";
import { Samples } from "../src/lab/samples.ts";
import { gapColumns, piecesAt, rateColumns, stepFor, ttftColumns } from "../src/lab/series.ts";

const FIGURES: SideFigures = {
  model: "scripted/count",
  ttftMs: 120,
  tokens: 40,
  estimated: false,
  perSecond: 20,
  cost: null,
  totalMs: 2_100,
  outcome: "complete",
};
const run = (one: Partial<SideFigures>, other: Partial<SideFigures>): Run => ({
  n: 1,
  prompt: "Why?",
  sides: [
    { ...FIGURES, ...one },
    { ...FIGURES, ...other },
  ],
});

describe("gaps", () => {
  const at = (ms: number, entries = 1, fields: object = {}): Row => {
    const frame: FrameLike = { type: "delta_text", stream: "r_1", after: 10, upto: 10 + entries, ...fields };
    return frameRow(0, ms, "in", frame, 20);
  };

  test("lie between frames with content, and have the entries that came in one", () => {
    const track = new Track();
    for (const row of [at(100), at(0, 1, { type: "headers_received" }), at(150), at(400, 12)]) track.note(row);
    expect(track.arrivals.toArray()).toEqual([
      { at: 100, gapMs: null, entries: 1 },
      { at: 150, gapMs: 50, entries: 1 },
      { at: 400, gapMs: 250, entries: 12 },
    ]);
  });

  test("have figures by nearest rank, and a rate that leaves out what the first frame brought", () => {
    const arrivals = [{ at: 0, gapMs: null, entries: 5 }];
    for (let n = 1; n <= 20; n += 1) arrivals.push({ at: n * 100, gapMs: n as never, entries: 1 });
    expect(gapFigures(arrivals)).toEqual({ frames: 21, entries: 25, p50: 10, p95: 19, max: 20, perSecond: 10 });
    expect(gapFigures([])).toEqual({ frames: 0, entries: 0, p50: null, p95: null, max: null, perSecond: null });
    expect([percentile([], 0.5), percentile([3], 0.95), percentile([1, 2], 0)]).toEqual([null, 3, 1]);
  });

  test("are told as counts of ranges, too", () => {
    const arrivals = [null, 12, 15, 30, 700].map((gapMs, n) => ({ at: n, gapMs, entries: 1 }));
    expect(histogram(arrivals)).toEqual([
      { label: "10 to 20 ms", count: 2 },
      { label: "20 to 50 ms", count: 1 },
      { label: "50 to 100 ms", count: 0 },
      { label: "100 to 200 ms", count: 0 },
      { label: "200 to 500 ms", count: 0 },
      { label: "500 to 1000 ms", count: 1 },
    ]);
    expect(histogram([])).toEqual([]);
  });

  test("know the seams, and what happened to the connection while the stream ran", () => {
    const tracks = new Tracks();
    tracks.note(at(10));
    tracks.note(at(50, 1, { type: "seam", reason: "node_lost", continuation: "prefill" }));
    tracks.interrupted(60, "lost", "connection lost");
    tracks.note(at(70, 1, { type: "stream_end" }));
    tracks.interrupted(80, "lost", "connection lost");
    expect(tracks.of("r_1")?.interruptions.toArray()).toEqual([
      { at: 50, kind: "seam", label: "seam: node lost, prefill" },
      { at: 60, kind: "lost", label: "connection lost" },
    ]);
  });

  test("are kept for the streams seen last", () => {
    const tracks = new Tracks();
    for (let n = 0; n < 40; n += 1) tracks.note(at(n, 1, { stream: `r_${n}` }));
    tracks.note(at(50, 1, { type: "stream_end", stream: "r_99" }));
    expect([tracks.streams.length, tracks.streams[0], tracks.streams.at(-1)]).toEqual([32, "r_8", "r_39"]);
  });

  test("are columns of one length for the plot", () => {
    const arrivals = [
      { at: 1_000, gapMs: null, entries: 1 },
      { at: 1_500, gapMs: 500, entries: 3 },
    ];
    expect(gapColumns(arrivals)).toEqual({ x: [0, 0.5], gaps: [null, 500], entries: [1, 3] });
    expect(gapColumns([])).toEqual({ x: [], gaps: [], entries: [] });
  });
});

describe("samples of an answer", () => {
  test("give the speed of the last seconds, once enough was seen", () => {
    const samples = new Samples();
    for (let n = 1; n <= 100; n += 1) samples.note(n * 100, n);
    expect(samples.rateAt(10_000)).toBe(10);
    expect(new Samples().rateAt(500)).toBeNull();
    const few = new Samples();
    few.note(100, 1);
    few.note(200, 2);
    expect(few.rateAt(200)).toBeNull();
  });

  test("take no notice where nothing has come, so a stall slows the speed down", () => {
    const samples = new Samples();
    for (let n = 1; n <= 20; n += 1) samples.note(n * 100, n);
    for (let t = 2_100; t < 4_000; t += 100) samples.note(t, 20);
    expect(samples.all.at(-1)).toEqual({ t: 2_000, pieces: 20 });
    expect(samples.rateAt(4_000)).toBeCloseTo(10 / 3, 5);
  });

  test("stay few for an answer of any length, from its beginning to its end", () => {
    const samples = new Samples();
    for (let n = 1; n <= 100_000; n += 1) samples.note(n * 20, n);
    expect(samples.all.length).toBeLessThanOrEqual(2_001);
    expect(samples.all[0]).toEqual({ t: 20, pieces: 1 });
    expect(samples.all.at(-1)).toEqual({ t: 2_000_000, pieces: 100_000 });
  });
});

describe("speed over time", () => {
  const even = (rate: number, from: number, to: number): { t: number; pieces: number }[] => {
    const count = Math.floor(((to - from) / 1_000) * rate) + 1;
    return Array.from({ length: count }, (_, n) => ({ t: from + (n * 1_000) / rate, pieces: n + 1 }));
  };

  test("is even for an even answer, also in the steps where it begins and ends", () => {
    const { x, rates, step } = rateColumns([even(40, 130, 2_130), even(10, 600, 1_100)]);
    expect(step).toBe(0.25);
    expect(x.slice(0, 3)).toEqual([0.125, 0.375, 0.625]);
    expect(x).toHaveLength(9);
    for (const rate of rates[0] ?? []) expect(rate).toBeCloseTo(40, 5);
    expect(rates[1]?.map((rate) => rate && Math.round(rate))).toEqual([null, null, 10, 10, 10, null, null, null, null]);
  });

  test("is nothing without an answer, and never negative", () => {
    expect(rateColumns([[], []])).toEqual({ x: [], rates: [[], []], step: 0.25 });
    const lost = [{ t: 100, pieces: 50 }, { t: 400, pieces: 20 }, { t: 700, pieces: 30 }];
    for (const rate of rateColumns([lost]).rates[0] ?? []) expect(rate).toBeGreaterThanOrEqual(0);
  });

  test("has coarser steps for a longer answer", () => {
    expect([stepFor(10_000), stepFor(100_000), stepFor(3_600_000), stepFor(1e9)]).toEqual([0.25, 1, 30, 300]);
  });

  test("is the straight line between two samples", () => {
    const samples = [{ t: 100, pieces: 10 }, { t: 200, pieces: 20 }];
    expect([0, 100, 150, 200, 900].map((t) => piecesAt(samples, t))).toEqual([0, 10, 15, 20, 20]);
  });
});

describe("the figures of runs", () => {
  test("are a table in Markdown that nothing in them can break", () => {
    const cost = { total: 0.001234, currency: "USD" };
    const table = markdownTable([run({ model: "a|b", cost }, { tokens: 41, estimated: true, outcome: "cancelled" })]);
    expect(table).toBe(
      "| Run | Prompt | Model | First token | Tokens | Tokens/s | Cost | Total | End |\n" +
        "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |\n" +
        "| 1 | Why? | a\\|b | 120 ms | 40 | 20.0 | 0.0012 USD | 2.1 s | complete |\n" +
        "| 1 | Why? | scripted/count | 120 ms | ≈ 41 | 20.0 | – | 2.1 s | stopped |\n",
    );
    const wild = markdownTable([{ ...run({}, {}), prompt: "one\n|two| `three` <b>" }]);
    expect(wild.split("\n")[2]).toContain("one \\|two\\| \\`three\\` \\<b>");
    expect(wild.trimEnd().split("\n")).toHaveLength(4);
  });

  test("are written for people", () => {
    const times = [0, 999, 999.6, 1_234, 99_940, 123_456, null].map(duration);
    expect(times).toEqual(["0 ms", "999 ms", "1.0 s", "1.2 s", "99.9 s", "123 s", "–"]);
    expect([0.04, 99.94, 99.96, NaN, null].map(rounded)).toEqual(["0.0", "99.9", "100", "–", "–"]);
    expect(shortened(` a\n${"b".repeat(100)}`)).toBe(`a ${"b".repeat(57)}…`);
  });

  test("say which side was better, where both are whole and it is more than a little", () => {
    expect(better(run({ ttftMs: 100 }, { ttftMs: 200 }), "ttftMs")).toBe(0);
    expect(better(run({ perSecond: 100 }, { perSecond: 200 }), "perSecond")).toBe(1);
    expect(better(run({ ttftMs: 100 }, { ttftMs: 102 }), "ttftMs")).toBeNull();
    expect(better(run({ ttftMs: 100 }, { ttftMs: 200, outcome: "cancelled" }), "ttftMs")).toBeNull();
    expect(better(run({ ttftMs: null }, { ttftMs: 200 }), "ttftMs")).toBeNull();
  });

  test("are columns for the plot of first tokens", () => {
    expect(ttftColumns([run({ ttftMs: 1_500 }, { ttftMs: null })])).toEqual({ x: [1], sides: [[1.5], [null]] });
  });
});

describe("the fields of a side", () => {
  test("become the parameters that are valid, and that the model knows", () => {
    const scripted = { rate: "80", tokens: "" };
    const filled = { system: " Brief. ", temperature: "3", "max-tokens": "12.6", thinking: true, ...scripted };
    const known = { system: "Brief.", max_tokens: 13, thinking: true };
    expect(paramsOf("scripted/count", filled)).toEqual({ ...known, rate: 80 });
    expect(paramsOf("openai/x", filled)).toEqual(known);
    expect(paramsOf("openai/x", { temperature: "zero", "max-tokens": "0", thinking: false })).toEqual({});
    expect(fieldsFor("openai/x").some(({ scripted }) => scripted)).toBe(false);
  });
});

describe("the dock", () => {
  const dock: Dock = { side: "bottom", bottomPx: 340, rightPx: 480 };
  const extent = { width: 1_200, height: 800 };

  test("leaves the page its part, and itself its least", () => {
    expect(sizeOf(resized(dock, 10_000, extent), extent)).toBe(640);
    expect(sizeOf(resized(dock, 1, extent), extent)).toBe(160);
    const small = { width: 300, height: 200 };
    expect([sizeOf(dock, small), mostOf("right", small)]).toEqual([160, 320]);
    expect(resized({ ...dock, side: "right" }, 500.4, extent)).toEqual({ side: "right", bottomPx: 340, rightPx: 500 });
  });

  test("moves by keys, the way the arrow points", () => {
    expect(keyed(dock, "ArrowUp", extent)?.bottomPx).toBe(364);
    expect(keyed(dock, "ArrowDown", extent)?.bottomPx).toBe(316);
    expect(keyed({ ...dock, side: "right" }, "ArrowLeft", extent)?.rightPx).toBe(504);
    expect([keyed(dock, "Home", extent)?.bottomPx, keyed(dock, "End", extent)?.bottomPx]).toEqual([160, 640]);
    expect([keyed(dock, "ArrowLeft", extent), keyed(dock, "a", extent)]).toEqual([null, null]);
  });

  test("lies at the bottom of a phone, whatever was chosen", () => {
    expect(placedIn({ ...dock, side: "right" }, { width: 390, height: 760 }).side).toBe("bottom");
    expect(placedIn({ ...dock, side: "right" }, extent).side).toBe("right");
  });

  test("comes as it was left, and as at first where nothing can be kept", () => {
    const kept = new Map<string, string>();
    storeDock({ setItem: (key, value) => void kept.set(key, value) }, { ...dock, side: "right", rightPx: 500 });
    const read = (text: string | null): Dock => storedDock({ getItem: () => text });
    expect(read([...kept.values()][0] ?? null)).toEqual({ side: "right", bottomPx: 340, rightPx: 500 });
    for (const text of [null, "nonsense", '{"side":"top","bottomPx":"x"}']) {
      expect(read(text)).toMatchObject({ side: "bottom", rightPx: 480 });
    }
    const setItem = (): void => {
      throw new Error("full");
    };
    expect(() => storeDock({ setItem }, dock)).not.toThrow();
  });
});
