// A session's reducer: the same session whatever happens to the frames on their way.

import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";

import type { Envelope, Frame, SessionMessage } from "../src/frames.ts";
import { addHistory, busyTurns, isOwn, may, newSession, positions, queuedTurns } from "../src/session.ts";
import { noteOf, readStreams, take, textOf } from "../src/session.ts";
import type { SessionState } from "../src/session.ts";
import { newStream, Verdict } from "../src/stream.ts";
import { pathOf, treeOf } from "../src/tree.ts";
import { Chance } from "./chance.ts";
import { EPOCH, folded, Play, SESSION, snapshotOf } from "./play.ts";

const SCHEDULES = 3_000;
let schedules = 0;

afterAll(() => console.info(`schedules of sessions: ${schedules}`));

const course = fc.record({ steps: fc.nat(25), seed: fc.noShrink(fc.nat()) });

/** All that it shows; an epoch may be learnt sooner or later, and turns that run are in no order. */
function held(state: SessionState): unknown {
  const { title, system, model, created, role, members, messages, more, deleted, offset } = state;
  const byTurn = busyTurns(state).map(({ behind, ...turn }) => [turn.turn, { ...turn, interrupt: undefined }]);
  const roles = Object.fromEntries(members.map((member) => [member.user, member.role]));
  return {
    ...{ title, system, model, created, role, roles, messages, more, deleted, offset },
    busy: Object.fromEntries(byTurn),
    queue: queuedTurns(state).map(({ turn }) => turn),
    path: pathOf(treeOf({ ...state, turns: [] }), {}).map(({ node, siblings }) => [node.key, siblings.length]),
  };
}

/** What a server sends to one who subscribes from `state`: what follows, or now and then a snapshot of any place. */
function answerTo(state: SessionState, entries: Frame[], chance: Chance): Frame[] {
  if (chance.once(5)) {
    const upto = state.offset + chance.below(entries.length - state.offset + 1);
    return [snapshotOf(folded(copied(entries.slice(0, upto)))), ...entries.slice(upto)];
  }
  const place = { offset: state.offset, tail: entries.length };
  const subscribed: Frame = { type: "subscribed", stream: SESSION, epoch: EPOCH, status: "open", ...place };
  return [subscribed, ...entries.slice(state.offset)];
}

function read(entries: Frame[], chance: Chance): SessionState {
  const road = chance.some(entries, 40);
  const most = 4 * entries.length + 200;
  let state = newSession(SESSION, "ann");
  for (let asked = 0; road.length > 0 || state.offset < entries.length; ) {
    // The connection is lost, with what was under way or after it, and the page may be loaded anew: `hello` asks again.
    if (road.length === 0 || chance.once(40)) {
      if (chance.once(2)) road.length = 0;
      state = copied({ ...state, waiting: state.offset > 0 });
      road.push(...answerTo(state, entries, chance));
    }
    const before = state.offset;
    const verdict = take(state, copied(road.shift()!));
    if (state.offset < before && verdict !== Verdict.REPLACED) throw new Error(`${verdict} went back`);
    if (verdict === Verdict.HOLE) road.push(...answerTo(state, entries, chance));
    if (verdict === Verdict.HOLE && (asked += 1) > most) throw new Error("it asks for ever");
  }
  return state;
}

/** As it comes over a wire, or from storage: shared with nobody. */
function copied<T>(value: T): T {
  return JSON.parse(JSON.stringify(value));
}

describe("entries that are doubled, lost, reordered, or replaced by snapshots", () => {
  it(`make the same session in ${SCHEDULES} schedules`, () => {
    const same = fc.property(course, ({ steps, seed }) => {
      schedules += 1;
      const chance = new Chance(seed);
      const { entries } = new Play(chance, steps);
      const truth = held(folded(copied(entries)));
      expect(held(read(entries, chance))).toEqual(truth);
    });
    fc.assert(same, { numRuns: SCHEDULES });
  });

  it("make the same session of a reply whose lists are newer than its place", () => {
    const same = fc.property(course, ({ steps, seed }) => {
      const chance = new Chance(seed);
      const { entries } = new Play(chance, steps);
      const truth = folded(copied(entries));
      const upto = chance.below(entries.length + 1);
      const { title, system, model, members, running, role } = snapshotOf(truth);
      const then = snapshotOf(folded(copied(entries.slice(0, upto))));
      const reply = { ...then, title, system, model, members, running, role, type: "ok", id: 1 } as Frame;
      const state = newSession(SESSION, "ann");
      expect(take(state, reply)).toBe(Verdict.REPLACED);
      for (const entry of entries.slice(upto)) expect(take(state, entry)).toBe(Verdict.APPLIED);
      expect(held(state)).toEqual(held(truth));
    });
    fc.assert(same, { numRuns: 1000 });
  });

  it("begin to read the streams of all turns, each from its start", () => {
    const reads = fc.property(course, ({ steps, seed }) => {
      const { entries } = new Play(new Chance(seed), steps);
      const state = folded(entries);
      const started = entries.filter(({ type }) => type === "turn_start").map((frame) => (frame as Envelope).stream);
      expect(Object.keys(state.streams).sort()).toEqual([...started].sort());
      expect(readStreams(state)).toEqual([]); // nothing of them has come
      expect(positions(state)).toEqual([{ stream: SESSION, epoch: EPOCH, offset: entries.length }]);
    });
    fc.assert(reads, { numRuns: 300 });
  });
});

describe("a session", () => {
  it("is its snapshot", () => {
    const same = fc.property(course, ({ steps, seed }) => {
      const state = folded(new Play(new Chance(seed), steps).entries);
      const copy = newSession(SESSION, "ann");
      expect(take(copy, snapshotOf(state))).toBe(Verdict.REPLACED);
      expect(held(copy)).toEqual(held(state));
    });
    fc.assert(same, { numRuns: 500 });
  });

  it("is longer with each page of history, and knows each message once", () => {
    const every = Array.from({ length: 10 }, (_, number): SessionMessage => {
      const parent = number > 0 ? `m_${number - 1}` : null;
      return { id: `m_${number}`, parent, role: "user", author: "ann", content: "x", created: number };
    });
    const shown = (state: SessionState): string[] => pathOf(treeOf(state), {}).map(({ node }) => node.key);
    const ids = every.map(({ id }) => id);
    const state = newSession(SESSION, "ann");
    const reply = { ...snapshotOf(folded([])), offset: 30, messages: every.slice(6), more: true };
    take(state, { ...reply, type: "ok" } as Frame);
    expect(shown(state)).toEqual(ids.slice(6));
    addHistory(state, { messages: every.slice(3, 7), more: true }); // one of them is known
    expect(shown(state)).toEqual(ids.slice(3));
    addHistory(state, { messages: every.slice(0, 3), more: false });
    expect(shown(state)).toEqual(ids);
    expect(state.messages.map(({ id }) => id)).toEqual(ids);
    expect(state.more).toBe(false);
  });

  it("keeps what was said of its streams beside their entries when its state is replaced", () => {
    const state = newSession(SESSION, "ann");
    const asked = { session: SESSION, turn: "t_1", stream: "r_1", after: 0, upto: 1 };
    take(state, { type: "turn_start", ...asked, model: "a/b", message: "m_1", user: "ann", left_out: 3 });
    take(state, { type: "turn_end", ...asked, after: 1, upto: 2, reason: "cancelled", message: "m_2", by: "bob" });
    take(state, snapshotOf(state));
    expect(noteOf(state, "r_1")).toEqual({ left_out: 3, by: "bob" });
    expect(noteOf(state, "r_2")).toEqual({});
  });

  it("tells its own frames from those of its streams by the names in them", () => {
    const place = { session: "s_1", after: 4, upto: 5 };
    const own = (frame: Envelope): boolean => isOwn({ id: "s_1" }, frame);
    expect(own({ type: "turn_start", stream: "r_1", ...place })).toBe(true);
    expect(own({ type: "message", stream: "s_1", ...place })).toBe(true);
    expect(own({ type: "of_a_later_version", stream: "r_1", ...place })).toBe(true);
    expect(own({ type: "presence", session: "s_1" })).toBe(true);
    expect(own({ type: "snapshot", stream: "s_1" })).toBe(true);
    expect(own({ type: "request_start", stream: "r_1", ...place })).toBe(false);
    expect(own({ type: "accepted", session: "s_1", stream: "r_1" })).toBe(false);
    expect(own({ type: "delta_text", stream: "r_1" })).toBe(false);
    expect(own({ type: "pong" })).toBe(false);
  });

  it("hands frames of its streams to them, and ignores those of others", () => {
    const state = { ...newSession(SESSION), streams: { r_1: newStream("r_1") } };
    const delta: Frame = { type: "delta_text", stream: "r_1", after: 0, upto: 1, text: "a" };
    expect(take(state, delta)).toBe(Verdict.APPLIED);
    expect(take(state, { ...delta, stream: "r_2" })).toBe(Verdict.IGNORED);
    expect(take(state, { ...delta, stream: "constructor" })).toBe(Verdict.IGNORED);
    expect(state.streams.r_1.text).toBe("a");
    expect(positions(state)).toEqual([{ stream: SESSION }, { stream: "r_1", epoch: null, offset: 1 }]);
  });

  it("lets a user do what the role allows", () => {
    const as = (role: SessionState["role"]) => ({ ...newSession(SESSION), role });
    expect(may(as("owner"), "delete")).toBe(true);
    expect([may(as("editor"), "send"), may(as("editor"), "members")]).toEqual([true, false]);
    expect([may(as("viewer"), "send"), may(as(null), "send")]).toEqual([false, false]);
  });

  it("shows content as text, and says where there is an image", () => {
    expect(textOf("hi")).toBe("hi");
    const image = { type: "image", url: "https://example.com/x" } as const;
    expect(textOf([{ type: "text", text: "look" }, image])).toBe("look\n[image]");
    expect(textOf(null)).toBe("");
  });
});
