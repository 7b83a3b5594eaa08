// The whole client against chance: connections that break anywhere, frames that are lost, doubled or late, places that
// the server does not know any more, and several readers of one stream.  Whatever happens, each reader has the text.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import type { Command, Resume } from "../src/frames.ts";
import type { Stream } from "../src/stream_handle.ts";
import { Chance } from "./chance.ts";
import type { FakeSocket } from "./server.ts";
import { Scene, WELCOME, end, pass, settled, text } from "./server.ts";

const COURSES = 200;
const STEPS = 60;
const STEPS_TO_THE_END = 400; // far more than any course needs that gets on at all
const SESSION = "s_1";
const IDS = ["r_1", "r_2", "r_3"];
const IN_SESSION = new Set(["r_1", "r_2"]);
const SAID = new Map(IDS.map((id, number) => [id, `${number}`.repeat(10) + "abcdefghijklmnopqrstuvwxyz"]));

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

function saidBy(id: string): string {
  return SAID.get(id) ?? "";
}

/** One connection as a server has it that makes what mistakes a network, or a bad server, can. */
class Server {
  readonly socket: FakeSocket;
  #chance: Chance;
  #read = 0; // commands that were looked at
  #readers = new Map<string, number>(); // stream -> offset
  #late: (() => void)[] = []; // what it will say or do some time
  #isWelcomed = false;

  constructor(socket: FakeSocket, chance: Chance) {
    this.socket = socket;
    this.#chance = chance;
  }

  /** `rough`: frames are lost and doubled. */
  step(rough: boolean): void {
    if (!this.#isWelcomed) {
      this.#isWelcomed = true;
      this.socket.onopen?.();
    }
    for (const command of this.socket.sent.slice(this.#read)) this.#late.push(() => this.#carryOut(command));
    this.#read = this.socket.sent.length;
    const due = this.#chance.below(Math.max(1, this.#late.length)) + (rough ? 0 : 1);
    for (const act of this.#late.splice(0, due)) act();
    for (const [id, offset] of [...this.#readers]) {
      if (this.#chance.once(3)) this.#sayMore(id, offset, rough);
    }
  }

  #sayMore(id: string, offset: number, rough: boolean): void {
    const whole = saidBy(id);
    if (offset > whole.length) {
      this.#readers.delete(id);
      return;
    }
    const upto = offset + 1 + this.#chance.below(8);
    const frames = [];
    if (offset < whole.length) frames.push(text(id, offset, whole.slice(offset, upto)));
    if (upto > whole.length) frames.push(end(id, whole.length));
    this.#readers.set(id, Math.min(upto, whole.length + 1));
    for (const frame of frames) {
      if (rough && this.#chance.once(6) && frame.type !== "stream_end") continue; // lost
      this.socket.say(frame);
      if (rough && this.#chance.once(4)) this.socket.say(frame);
    }
  }

  #carryOut(command: Command): void {
    if (command.type === "hello") {
      this.socket.say(WELCOME);
      for (const place of command.resume ?? []) this.#late.push(() => this.#subscribe(place));
    } else if (command.type === "subscribe") {
      this.#subscribe(command, command.id);
    } else if (command.type === "session.open") {
      const running = [...IN_SESSION].map((stream) => ({ ...TURN, turn: `t${stream}`, stream }));
      this.socket.say({ ...STATE, type: "ok", id: command.id, running });
      for (const stream of IN_SESSION) {
        const place = command.responses?.find((given) => given.stream === stream) ?? { stream };
        this.#late.push(() => this.#subscribe(place));
      }
    } else if (command.type === "session.close") {
      for (const stream of IN_SESSION) this.#readers.delete(stream);
    }
  }

  #subscribe({ stream, offset }: Resume, id?: string | number): void {
    const echo = id === undefined ? {} : { id };
    if (stream === SESSION) {
      this.socket.say({ type: "subscribed", stream, epoch: 1, offset: 1, tail: 1, status: "open", ...echo });
      return;
    }
    const whole = saidBy(stream);
    if (this.#chance.once(5)) {
      const upto = this.#chance.below(whole.length);
      const said = { text: whole.slice(0, upto), thinking: "", tool_calls: [], end: null, status: "open" };
      this.#readers.set(stream, upto);
      this.socket.say({ type: "snapshot", stream, epoch: 1, upto, ...said, ...echo });
      return;
    }
    this.#readers.set(stream, offset ?? 0);
    this.socket.say({ type: "subscribed", stream, epoch: 1, offset: offset ?? 0, tail: 9, status: "open", ...echo });
  }
}

const TURN = { epoch: 1, model: "m/m", message: "m_1", user: "ada", state: "running" };
const STATE = {
  ...{ session: SESSION, title: "", system: "", model: "", created: 1, role: "owner", members: [], users: [] },
  ...{ messages: [], more: false, epoch: 1, offset: 1 },
};

/** What a loop over text amounts to: what was withdrawn is replaced. */
async function read(stream: Stream): Promise<string> {
  for (;;) {
    let said = "";
    try {
      for await (const piece of stream.textDeltas()) said += piece;
      return said;
    } catch (error) {
      if ((error as Error).name !== "TextWithdrawn") throw error;
    }
  }
}

async function course(seed: number): Promise<void> {
  const chance = new Chance(seed);
  const scene = new Scene();
  const readers: { stream: Stream; said: Promise<string> }[] = [];
  let server: Server | null = null;
  scene.client.open();
  const step = async (rough: boolean): Promise<void> => {
    if (server === null || server.socket !== scene.sockets.at(-1)) server = new Server(scene.socket, chance);
    if (scene.client.state !== "waiting") server.step(rough);
    await settled();
    await pass(chance.once(10) ? 600 : 1);
  };
  for (let number = 0; number < STEPS; number += 1) {
    if (readers.length < 5 && chance.once(6)) {
      const stream = scene.client.subscribe(chance.one(IDS));
      readers.push({ stream, said: read(stream) });
    }
    if (chance.once(12)) scene.client.session(SESSION);
    if (chance.once(25)) scene.client.session(SESSION).close();
    if (chance.once(15) && scene.client.state !== "waiting") scene.socket.drop();
    await step(true);
  }
  for (let number = 0; number < STEPS_TO_THE_END && readers.some(({ stream }) => !stream.ended); number += 1) {
    await step(false);
  }
  for (const { stream, said } of readers) {
    expect(stream.ended, `course ${seed}: ${stream.id} at ${stream.state.offset}`).toBe(true);
    expect([stream.text, (await stream.result).text, await said]).toEqual(Array(3).fill(saidBy(stream.id ?? "")));
  }
  scene.client.close();
}

describe("a client", () => {
  it("gives every reader the whole text through whatever happens", async () => {
    for (let seed = 0; seed < COURSES; seed += 1) await course(seed);
    console.log(`courses of clients: ${COURSES}`);
  }, 120_000);
});
