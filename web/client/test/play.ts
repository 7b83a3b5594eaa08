// A session that could have been: chance says what happens next, and what it says is something that a server could.

import type { Frame, Role, SessionMessage, SessionSnapshot } from "../src/frames.ts";
import { newSession, take } from "../src/session.ts";
import type { SessionState } from "../src/session.ts";
import { Verdict } from "../src/stream.ts";
import type { Chance } from "./chance.ts";

export const SESSION = "s_1";
export const EPOCH = 9;

interface Waiting {
  turn: string;
  stream: string;
  last: string;
  calls: string[];
}

type Started = Omit<Waiting, "calls">;

export class Play {
  readonly entries: Frame[] = [];
  readonly #chance: Chance;
  readonly #messages: string[] = [];
  #running: Started[] = [];
  #queue: Started[] = [];
  #waiting: Waiting[] = [];
  #names = 0;

  constructor(chance: Chance, steps: number) {
    this.#chance = chance;
    this.#say("session", { created: 1 });
    this.#say("member", { user: "ann", role: "owner" });
    const course = [this.#ask, this.#enqueue, this.#takeFromQueue, this.#answer, this.#give, this.#change, this.#admit];
    for (let step = 0; step < steps; step++) chance.one([...course, this.#strange]).call(this);
  }

  #say(type: string, fields: Record<string, unknown>): void {
    const after = this.entries.length;
    const about = { stream: SESSION, session: SESSION, ...fields };
    this.entries.push({ type, ...about, after, upto: after + 1 } as unknown as Frame);
  }

  #name(kind: string): string {
    this.#names += 1;
    return `${kind}_${this.#names}`;
  }

  #message(role: SessionMessage["role"], parent: string | null, fields: Partial<SessionMessage> = {}): string {
    const id = fields.id ?? this.#name("m");
    const message = { parent, role, author: "ann", content: id, created: this.#names, ...fields, id };
    this.#say("message", { message });
    this.#messages.push(id);
    return id;
  }

  #start(turn: string, stream: string, message: string): void {
    this.#say("turn_start", { turn, stream, model: "a/b", message, user: "ann" });
    this.#running.push({ turn, stream, last: message });
  }

  #ask(): void {
    const message = this.#message("user", this.#chance.one([null, ...this.#messages]));
    this.#start(this.#name("t"), this.#name("r"), message);
  }

  #enqueue(): void {
    const queued = { turn: this.#name("t"), stream: this.#name("r"), last: this.#name("m") };
    const at = this.#chance.one([0, this.#queue.length]);
    const { turn, stream, last: message } = queued;
    const asked = { message, content: "later", model: "a/b", user: "ann", follows: true };
    this.#say("turn_queued", { turn, stream, position: at + 1, ...asked });
    this.#queue.splice(at, 0, queued);
  }

  #takeFromQueue(): void {
    if (this.#queue.length === 0) return;
    if (this.#chance.once(2)) {
      const { turn, stream, last } = this.#queue.shift()!;
      this.#message("user", null, { id: last, content: "later" });
      this.#start(turn, stream, last);
    } else {
      const [removed] = this.#queue.splice(this.#chance.below(this.#queue.length), 1);
      const { turn, stream } = removed!;
      this.#say("turn_end", { turn, stream, reason: "cancelled", message: null, by: "ann" });
    }
  }

  #answer(): void {
    if (this.#running.length === 0) return;
    const [{ turn, stream, last }] = this.#running.splice(this.#chance.below(this.#running.length), 1) as [Started];
    const calls = Array.from({ length: this.#chance.below(3) }, () => this.#name("c"));
    const tool_calls = calls.map((call_id) => ({ call_id, name: "f", arguments: "{}" }));
    const answer = this.#message("assistant", last, { stream, ...(calls.length > 0 && { tool_calls }) });
    if (calls.length > 0) this.#waiting.push({ turn, stream, last: answer, calls });
    else this.#say("turn_end", { turn, stream, reason: "complete", message: answer });
  }

  #give(): void {
    const waiting = this.#waiting.pop();
    const call_id = waiting?.calls.shift();
    if (waiting === undefined || call_id === undefined) return;
    const { turn, stream, last, calls } = waiting;
    if (this.#chance.once(2)) this.#say("tool_start", { turn, stream, call_id, user: this.#chance.one([null, "ann"]) });
    const result = this.#message("tool", last, { stream, call_id });
    if (calls.length > 0) this.#waiting.push({ turn, stream, last: result, calls });
    else this.#start(turn, this.#name("r"), result);
  }

  #change(): void {
    this.#say("session", { title: this.#name("title") });
  }

  #admit(): void {
    const role = this.#chance.one<Role | null>(["editor", "viewer", null]);
    this.#say("member", { user: this.#chance.one(["bob", "eve"]), role });
  }

  #strange(): void {
    this.#say("reaction", { message: "m_1" });
  }
}

export function folded(entries: Frame[]): SessionState {
  const state = { ...newSession(SESSION, "ann"), epoch: EPOCH };
  for (const entry of entries) {
    if (take(state, entry) !== Verdict.APPLIED) throw new Error(`not taken: ${JSON.stringify(entry)}`);
  }
  return state;
}

/** What a server answers to `session.open`, or sends in place of entries. */
export function snapshotOf(state: SessionState): SessionSnapshot {
  const { id, title, system, model, created, role, members, messages, more, turns, users, offset, notes } = state;
  const running = turns.map(({ behind, ...turn }) => {
    const started = Object.keys(notes[turn.stream]?.started ?? {});
    return { ...turn, epoch: EPOCH, started } as SessionSnapshot["running"][number];
  });
  const told = { title, system, model, created: created ?? 0, role, members, messages, more, running, users };
  const place = { stream: id, session: id, epoch: EPOCH, offset, upto: offset, status: "open" as const };
  return JSON.parse(JSON.stringify({ type: "snapshot", ...told, ...place }));
}
