// How fast an answer comes.

import { expect, test } from "vitest";

import { Meter } from "../src/state/meter.ts";

test("the rate is that of the last seconds", () => {
  const meter = new Meter();
  for (let at = 0; at <= 10_000; at += 100) meter.note(at, at / 10, at / 10);
  expect(meter.perSecond(10_000, 1_000)).toBeCloseTo(100, 0);
});

test("too little says nothing", () => {
  const meter = new Meter();
  expect(meter.perSecond(0, 0)).toBeNull();
  meter.note(0, 1, 1);
  expect(meter.perSecond(200, 50)).toBeNull();
});

test("what the server had already is no rate", () => {
  const meter = new Meter();
  meter.take({ type: "subscribed", tail: 500 }, 0, 0, 0);
  meter.take({ type: "delta_text", after: 0, upto: 150 }, 10, 150, 150);
  expect(meter.perSecond(1_000, 150)).toBeNull();
  meter.take({ type: "delta_text", after: 499, upto: 500 }, 1_000, 500, 500);
  meter.take({ type: "delta_text", after: 500, upto: 520 }, 2_000, 520, 520);
  expect(meter.perSecond(2_000, 520)).toBe(20);
});

test("what comes first, all at once and in pieces, was there before", () => {
  const meter = new Meter();
  for (let pieces = 10; pieces <= 100; pieces += 10) meter.note(pieces / 10, pieces, pieces);
  meter.note(1_010, 120, 120);
  expect(meter.perSecond(1_010, 120)).toBe(20);
});

test("much at once was not made just now", () => {
  const meter = new Meter();
  meter.note(0, 10, 10);
  meter.take({ type: "delta_text", after: 10, upto: 1_010 }, 1_000, 1_010, 1_010);
  expect(meter.perSecond(1_500, 1_010)).toBe(0);
});
