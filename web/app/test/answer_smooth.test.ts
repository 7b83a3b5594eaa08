// The pace of text: even, never far behind, whole words, and all of it at the end.

import { describe, expect, test } from "vitest";

import { newPace, paced, wordEnd } from "../src/answer/smooth.ts";

const FRAME_MS = 1000 / 60;

interface Run {
  /** How far what is shown lies behind what has come, in milliseconds of the text's own speed, at each frame. */
  behindMs: number[];
  steps: number[];
  shown: number;
}

/** Text of `perSecond` units a second that comes in bursts, every `burstMs`, for `ms`. */
function run(perSecond: number, burstMs: number, ms: number): Run {
  let pace = newPace(0, 0);
  const found: Run = { behindMs: [], steps: [], shown: 0 };
  for (let now = 0; now < ms; now += FRAME_MS) {
    const come = Math.floor((Math.floor(now / burstMs) * burstMs * perSecond) / 1000);
    const before = pace.shown;
    pace = paced(pace, come, false, now);
    found.steps.push(pace.shown - before);
    found.behindMs.push(((come - pace.shown) * 1000) / perSecond);
  }
  return { ...found, shown: pace.shown };
}

describe("a pace", () => {
  test.each([
    [40, 25],
    [300, 100],
    [300, 200],
    [4_000, 50],
    [40_000, 100],
  ])("of %i units a second in bursts of %i ms is less than half a second behind", (perSecond, burstMs) => {
    const { behindMs } = run(perSecond, burstMs, 5_000);
    expect(Math.max(...behindMs.slice(60))).toBeLessThan(500);
  });

  test("is more even than what comes", () => {
    const { steps } = run(1_000, 200, 5_000);
    const steady = steps.slice(120);
    const mean = steady.reduce((sum, step) => sum + step, 0) / steady.length;
    expect(Math.max(...steady)).toBeLessThan(2.5 * mean);
    expect(Math.min(...steady)).toBeGreaterThan(0.2 * mean);
  });

  test("catches up with a backlog in motion, and soon", () => {
    let pace = newPace(0, 0);
    const steps: number[] = [];
    for (let now = FRAME_MS; now < 1_500; now += FRAME_MS) {
      const before = pace.shown;
      pace = paced(pace, 5_000, false, now);
      steps.push(pace.shown - before);
    }
    expect(Math.max(...steps)).toBeLessThan(1_000);
    expect(pace.shown).toBeGreaterThan(4_900);
  });

  test("shows the rest within a moment after the end", () => {
    let pace = newPace(0, 0);
    let now = 0;
    for (; now < 1_000; now += FRAME_MS) pace = paced(pace, Math.floor(now), false, now);
    expect(pace.shown).toBeLessThan(1_000);
    const ended = now;
    while (pace.shown < 1_000) pace = paced(pace, 1_000, true, (now += FRAME_MS));
    expect(now - ended).toBeLessThan(300);
  });

  test("goes on where it was after a time without frames", () => {
    const pace = paced({ shown: 100, speed: 1, at: 0, endedAt: null }, 10_000, false, 60_000);
    expect(pace.shown).toBeGreaterThan(100);
    expect(pace.shown).toBeLessThan(10_000);
  });

  test("never goes back and never beyond what has come", () => {
    let pace = newPace(0, 0);
    let length = 0;
    let seed = 1;
    for (let now = 0; now < 20_000; now += FRAME_MS) {
      seed = (seed * 48_271) % 2_147_483_647;
      if (seed % 7 === 0) length += seed % 400;
      const before = pace.shown;
      pace = paced(pace, length, false, now);
      expect(pace.shown).toBeGreaterThanOrEqual(before);
      expect(pace.shown).toBeLessThanOrEqual(length);
    }
  });
});

describe("what is shown ends with a word", () => {
  test.each([
    ["one two three", 5, "one "],
    ["one two three", 7, "one two"],
    ["one two three", 3.9, "one"],
    ["one two three", 99, "one two three"],
    ["one", 0.5, ""],
  ])("of %j at %d", (text, most, shown) => {
    expect(text.slice(0, wordEnd(text, most))).toBe(shown);
  });

  test("or, in a script without spaces, with a whole character", () => {
    const text = "灯塔".repeat(40) + "👩‍👩‍👧‍👦".repeat(20) + "e\u0301".repeat(40);
    const segmenter = new Intl.Segmenter(undefined, { granularity: "grapheme" });
    const ends = new Set([0, ...[...segmenter.segment(text)].map(({ index, segment }) => index + segment.length)]);
    for (let most = 0; most <= text.length; most++) {
      const end = wordEnd(text, most);
      expect(ends).toContain(end);
      expect(end).toBeLessThanOrEqual(most);
      expect(most - end).toBeLessThan(40);
    }
  });
});
