// A stream's reducer: the same text whatever happens to the frames on their way.

import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";

import type { Entry, Frame } from "../src/frames.ts";
import { applyFrame, newStream, position, startOver, Verdict } from "../src/stream.ts";
import type { StreamState } from "../src/stream.ts";
import { Chance } from "./chance.ts";

const STREAM = "r_1";
const EPOCH = 9;
const SCHEDULES = 10_000;
let schedules = 0;

afterAll(() => console.info(`schedules of streams: ${schedules}`));

/** An entry without its place. */
type Said = { type: Entry["type"] | "delta_smell"; [field: string]: unknown };

const piece = fc.string({ unit: fc.constantFrom("a", "b", " ", "c", "🙂", "é"), maxLength: 4 });
const said: fc.Arbitrary<Said> = fc.oneof(
  piece.map((text): Said => ({ type: "delta_text", text })),
  piece.map((text): Said => ({ type: "delta_thinking", text })),
  piece.map((text): Said => ({ type: "delta_refusal", text })),
  fc
    .tuple(fc.nat(2), piece, fc.constantFrom(undefined, "f", "g"))
    .map(([index, text, name]): Said => ({ type: "delta_tool_call", index, arguments: text, ...(name && { name }) })),
  fc.constant<Said>({ type: "delta_smell" }),
  fc
    .constantFrom("exact", "prefill", "restart", null)
    .map((continuation): Said => ({ type: "seam", epoch: EPOCH, attempt: 2, continuation })),
);
const end: Said = { type: "stream_end", reason: "complete" };
const answer = fc.array(said, { maxLength: 30 }).map((all): Said[] => [...all, end]);
const seed = fc.noShrink(fc.nat());

const MERGED: Partial<Record<Said["type"], string>> = {
  delta_text: "text",
  delta_thinking: "text",
  delta_refusal: "text",
  delta_tool_call: "arguments",
};

/** One frame for entries of one kind. */
function merged(entries: Said[], after: number): Frame {
  const [first] = entries;
  const key = MERGED[first?.type ?? "seam"];
  const whole = key && { [key]: entries.map((entry) => entry[key]).join("") };
  return { ...first, ...whole, stream: STREAM, after, upto: after + entries.length } as unknown as Frame;
}

/** Whether a server may merge these two. */
function alike(one: Said, other: Said): boolean {
  if (!(one.type in MERGED) || one.type !== other.type || one.index !== other.index) return false;
  return other.name === undefined || other.name === one.name;
}

/** The entries after `after`, merged as chance will. */
function framesAfter(entries: Said[], after: number, chance: Chance): Frame[] {
  const frames: Frame[] = [];
  for (let at = after; at < entries.length; ) {
    let upto = at + 1;
    while (upto < entries.length && alike(entries[at]!, entries[upto]!) && chance.once(2)) upto += 1;
    frames.push(merged(entries.slice(at, upto), at));
    at = upto;
  }
  return frames;
}

function folded(entries: Said[]): StreamState {
  const state = newStream(STREAM, EPOCH);
  entries.forEach((entry, at) => expect(applyFrame(state, merged([entry], at))).toBe(Verdict.APPLIED));
  return state;
}

function snapshotOf({ id, epoch, offset, text, thinking, refusal, tool_calls, end }: StreamState): Frame {
  const place = { stream: id, epoch: epoch ?? 0, upto: offset, status: end === null ? "open" : "ended" } as const;
  return { type: "snapshot", ...place, text, thinking, refusal, tool_calls, end };
}

/** What a server sends to one who subscribes from `state`: from there on, or now and then a snapshot. */
function answerTo(state: StreamState, entries: Said[], chance: Chance): Frame[] {
  if (chance.once(8)) {
    const whole = folded(entries.slice(0, state.offset + chance.below(entries.length - state.offset + 1)));
    return [snapshotOf(whole), ...framesAfter(entries, whole.offset, chance)];
  }
  const place = { offset: state.offset, tail: entries.length };
  const subscribed: Frame = { type: "subscribed", stream: STREAM, epoch: EPOCH, status: "ended", ...place };
  return [subscribed, ...framesAfter(entries, state.offset, chance)];
}

function held({ text, thinking, refusal, tool_calls, offset, end }: StreamState): unknown {
  return { text, thinking, refusal, tool_calls, offset, end };
}

/** A view that appends: it begins anew only where `revision` says so. */
class View {
  text = "";
  #revision = 0;

  show({ text, revision }: StreamState): void {
    if (revision !== this.#revision) this.text = "";
    this.#revision = revision;
    if (!text.startsWith(this.text)) throw new Error(`${text} does not go on from ${this.text}`);
    this.text += text.slice(this.text.length);
  }
}

/** Frames come as chance will, and holes are asked about, until the end has been read. */
function read(entries: Said[], chance: Chance): StreamState {
  const sent = [...framesAfter(entries, 0, chance), ...framesAfter(entries, 0, chance)];
  const road = chance.some(sent, 60);
  const most = 4 * entries.length + 200;
  let state = newStream(STREAM);
  const view = new View();
  for (let asked = 0; road.length > 0 || state.end === null; ) {
    // The connection is lost, with what was under way or after it, and the page may be loaded anew: `hello` asks again.
    if (road.length === 0 || chance.once(40)) {
      if (chance.once(2)) road.length = 0;
      state = JSON.parse(JSON.stringify({ ...state, waiting: state.offset > 0 }));
      road.push(...answerTo(state, entries, chance));
    }
    const before = state.offset;
    const verdict = applyFrame(state, road.shift()!);
    view.show(state);
    if (state.offset < before && verdict !== Verdict.REPLACED) throw new Error(`${verdict} went back`);
    if (verdict === Verdict.HOLE) road.push(...answerTo(state, entries, chance));
    if (verdict === Verdict.HOLE && (asked += 1) > most) throw new Error("it asks for ever");
  }
  expect(view.text).toBe(state.text);
  return state;
}

describe("frames that are split, merged, doubled, lost, reordered, or replaced by snapshots", () => {
  it(`make the same answer in ${SCHEDULES} schedules`, () => {
    const same = fc.property(answer, seed, (entries, number) => {
      schedules += 1;
      const truth = held(folded(entries));
      expect(held(read(entries, new Chance(number)))).toEqual(truth);
    });
    fc.assert(same, { numRuns: SCHEDULES });
  });
});

describe("a stream", () => {
  it("is its snapshot", () => {
    const same = fc.property(answer, (entries) => {
      const state = folded(entries);
      const copy = newStream(STREAM);
      expect(applyFrame(copy, snapshotOf(state))).toBe(Verdict.REPLACED);
      expect(held(copy)).toEqual(held(state));
    });
    fc.assert(same, { numRuns: 500 });
  });

  it("has the beginning of its text wherever its reading is broken off", () => {
    const begins = fc.property(answer, fc.nat(30), (entries, upto) => {
      const steady = entries.filter(({ type }) => type !== "seam");
      const { text } = folded(steady);
      expect(text.startsWith(folded(steady.slice(0, upto)).text)).toBe(true);
    });
    fc.assert(begins, { numRuns: 500 });
  });

  it("is resumed from its place, and from its start where nothing was read", () => {
    expect(position(newStream("r_1", 7))).toEqual({ stream: "r_1" });
    expect(position({ ...newStream("r_1", 7), offset: 3 })).toEqual({ stream: "r_1", epoch: 7, offset: 3 });
  });

  it("starts over without what was held, and tells views so", () => {
    const entries: Said[] = [{ type: "delta_text", text: "ab" }, { type: "stream_end", reason: "complete" }];
    const state = folded(entries);
    startOver(state, 11);
    expect(state).toEqual({ ...newStream(STREAM, 11), revision: 1 });
    expect(applyFrame(state, merged(entries.slice(0, 1), 0))).toBe(Verdict.APPLIED);
    expect(state.text).toBe("ab");
  });

  it("keeps its place at entries of a later version, and ignores all other frames", () => {
    const state = newStream(STREAM);
    const later = { type: "delta_smell", stream: STREAM, after: 0, upto: 1 } as unknown as Frame;
    expect(applyFrame(state, later)).toBe(Verdict.APPLIED);
    const unplaced = { type: "delta_text", stream: STREAM, text: "a" };
    const strange = [{ type: "heartbeat" }, { ...later, stream: "r_2" }, unplaced];
    for (const frame of strange) expect(applyFrame(state, frame as Frame)).toBe(Verdict.IGNORED);
    expect(state).toEqual({ ...newStream(STREAM), offset: 1 });
  });

  it("says where it was carried on, by whom and how", () => {
    const seam = { type: "seam", epoch: 9, attempt: 2, reason: "drain", continuation: "prefill", check: "verified" };
    const state = folded([{ type: "delta_text", text: "abc" }, { ...seam, node: "n_2", type: "seam" }]);
    const { type, ...told } = seam;
    expect(state.seams).toEqual([{ at: 3, node: "n_2", ...told }]);
  });
});
