// The reducers against the cases of tests/conformance: what any client must make of the frames it gets, as data.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";

import type { Frame, TurnShown } from "../src/frames.ts";
import { busyTurns, isOwn, newSession, queuedTurns, take } from "../src/session.ts";
import type { SessionState, TurnState } from "../src/session.ts";
import { applyFrame, newStream, Verdict } from "../src/stream.ts";
import type { Position } from "../src/stream.ts";
import { pathOf, treeOf } from "../src/tree.ts";

interface Case {
  name: string;
  start?: { epoch: number | null; offset: number };
  frames: Frame[];
  expect: Record<string, unknown>;
}

interface Held {
  id: string;
  epoch: number | null;
  offset: number;
}

type StreamCase = Case & { stream: string };
type SessionCase = Case & { session: string; user: string };

const streamCases = casesOf<StreamCase>("cases.json");
const sessionCases = casesOf<SessionCase>("session_cases.json");

function casesOf<C extends Case>(file: string): C[] {
  const address = new URL(`../../../tests/conformance/${file}`, import.meta.url);
  const cases: C[] = JSON.parse(readFileSync(address, "utf-8"));
  expect(cases.length).toBeGreaterThan(10);
  return cases;
}

/** Give `place` all frames: what it said to each, and what it asked for. */
function given(place: Held, frames: Frame[], one: (frame: Frame) => Verdict) {
  const verdicts: Verdict[] = [];
  const actions: { subscribe: Position }[] = [];
  for (const frame of frames) {
    const verdict = one(frame);
    verdicts.push(verdict);
    const { id, epoch, offset } = place;
    if (verdict === Verdict.HOLE) actions.push({ subscribe: { stream: id, epoch, offset } });
  }
  return { verdicts, actions };
}

describe("one stream", () => {
  it.each(streamCases)("$name", ({ stream, start = { epoch: null, offset: 0 }, frames, expect: wanted }) => {
    const state = { ...newStream(stream), ...start };
    const done = given(state, frames, (frame) => applyFrame(state, frame));
    const { text, thinking, refusal, tool_calls, epoch, offset, end } = state;
    const ended = { ended: end !== null, end_reason: end?.reason ?? null };
    expect({ text, thinking, refusal, tool_calls, position: { epoch, offset }, ...ended, ...done }).toEqual(wanted);
  });
});

describe("a state that was stored in between, and taken up again", () => {
  it.each(streamCases)("$name", ({ stream, frames }) => {
    const whole = newStream(stream);
    let parted = newStream(stream);
    for (const frame of frames) {
      applyFrame(whole, frame);
      parted = stored(parted);
      applyFrame(parted, frame);
    }
    expect(parted).toEqual(whole);
  });

  it.each(sessionCases)("$name", ({ session, user, frames }) => {
    const whole = newSession(session, user);
    let parted = newSession(session, user);
    for (const frame of frames) {
      take(whole, frame);
      parted = stored(parted);
      take(parted, frame);
    }
    expect(stored(parted)).toEqual(stored(whole));
  });
});

function stored<T>(state: T): T {
  return JSON.parse(JSON.stringify(state));
}

describe("one session", () => {
  it.each(sessionCases)("$name", ({ session, user, start = { epoch: null, offset: 0 }, frames, expect: wanted }) => {
    const state = { ...newSession(session, user), ...start };
    const own = (frame: Frame): Verdict => (isOwn(state, frame) ? take(state, frame) : Verdict.IGNORED);
    const done = given(state, frames, own);
    expect({ ...heldBy(state), ...done }).toEqual(heldTurns(wanted));
  });
});

function heldBy(state: SessionState): Record<string, unknown> {
  const { title, system, model, role, members, messages, more, users, deleted, epoch, offset } = state;
  return {
    ...{ title, system, model, role, more, deleted, position: { epoch, offset } },
    members: Object.fromEntries(members.map((member) => [member.user, member.role])),
    messages: messages.map(({ id }) => id),
    // Of messages alone: an answer that is still coming may lie on another branch.
    path: pathOf(treeOf({ ...state, turns: [] }), {}).map(({ node }) => node.message?.id),
    turns: busyTurns(state).map(shown),
    queue: queuedTurns(state).map(shown),
    users: users.map(({ id }) => id),
  };
}

/** What both a case and the state say of a turn; a page need not know which results are missing. */
function shown(turn: TurnState | TurnShown): Record<string, unknown> {
  const { turn: id, stream, model, message, user, state, content, request_id, left_out } = turn;
  const more = Object.entries({ content, request_id, left_out }).filter(([, value]) => Boolean(value));
  return { turn: id, stream, model, message, user, state, ...Object.fromEntries(more) };
}

function heldTurns(wanted: Record<string, unknown>): Record<string, unknown> {
  const { turns, queue, ...rest } = wanted as { turns: TurnShown[]; queue: TurnShown[] };
  return { ...rest, turns: turns.map(shown), queue: queue.map(shown) };
}
