// A server for tests, as far as its client can see it: WebSockets that are opened, said to and dropped by hand.

import { vi } from "vitest";

import { Client } from "../src/client.ts";
import type { Command, Frame } from "../src/frames.ts";
import type { ClientOptions, StateChange } from "../src/options.ts";

export const HEARTBEAT_MS = 15_000;

export class FakeSocket {
  binaryType = "blob";
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onerror: (() => void) | null = null;
  readonly sent: Command[] = [];
  readonly url: string;
  readonly protocols: string[];
  isClosed = false;

  constructor(url: string | URL, protocols: string[]) {
    this.url = String(url);
    this.protocols = protocols;
  }

  send(data: string): void {
    this.sent.push(JSON.parse(data) as Command);
  }

  close(): void {
    this.isClosed = true;
  }

  say(frame: object): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  /** The connection is over as the server has it. */
  drop(code = 1006, reason = ""): void {
    this.onclose?.({ code, reason });
  }
}

/** A client, the sockets that it has made, and what it has told.  Time and chance are the test's. */
export class Scene {
  readonly sockets: FakeSocket[] = [];
  readonly states: StateChange[] = [];
  readonly told: unknown[] = [];
  readonly client: Client;
  /** What chance says from now on: 0 is "at once", 1 is "as late as may be". */
  chance = 0;

  constructor(options: ClientOptions = {}) {
    const { sockets } = this;
    const Socket = function (url: string, protocols: string[]) {
      const socket = new FakeSocket(url, protocols);
      sockets.push(socket);
      return socket;
    };
    const WebSocket = Socket as unknown as typeof globalThis.WebSocket;
    const fixed: ClientOptions = { url: "ws://server.test/ws", transport: "websocket", random: () => this.chance };
    this.client = new Client({ ...fixed, WebSocket, ...options });
    this.client.on("state", (change) => this.states.push(change));
    this.client.on("token", ({ why }) => this.told.push(why));
    this.client.on("error", (error) => this.told.push(error.code));
  }

  get socket(): FakeSocket {
    const socket = this.sockets.at(-1);
    if (socket === undefined) throw new Error("no connection was made");
    return socket;
  }

  get last(): StateChange {
    const change = this.states.at(-1);
    if (change === undefined) throw new Error("nothing has happened");
    return change;
  }

  /** What the newest connection was sent behind its hello, without the ids. */
  get commands(): object[] {
    return this.socket.sent.slice(1).map(({ id, ...command }) => command);
  }

  /** The socket that was made last opens, and is welcomed. */
  welcome(fields: object = {}): FakeSocket {
    const { socket } = this;
    if (socket.sent.length === 0) socket.onopen?.();
    socket.say({ ...WELCOME, ...fields });
    return socket;
  }

  opened(fields: object = {}): FakeSocket {
    this.client.open();
    return this.welcome(fields);
  }

  /** Answer the newest command of a type.  Those who wait for it go on. */
  async answer(type: string, fields: object): Promise<Command> {
    const asked = this.socket.sent.findLast((command) => command.type === type);
    if (asked === undefined) throw new Error(`no ${type} was sent: ${JSON.stringify(this.socket.sent)}`);
    this.socket.say({ id: asked.id, ...fields });
    await settled();
    return asked;
  }
}

export const WELCOME = {
  type: "welcome",
  protocol: 1,
  connection: "c_1",
  node: "n_1",
  user: { id: "ada", name: "Ada" },
  heartbeat_ms: HEARTBEAT_MS,
  limits: { frame_bytes: 10_000, streams: 64, sessions: 64, commands: 8 },
};

/** Whoever waits for what has happened already goes on. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
}

export function pass(ms: number): Promise<unknown> {
  return vi.advanceTimersByTimeAsync(ms);
}

/** A text entry: one piece a character, from `after` on. */
export function text(stream: string, after: number, said: string): Frame {
  return { type: "delta_text", stream, after, upto: after + said.length, text: said };
}

export function end(stream: string, after: number, reason: "complete" | "cancelled" = "complete"): Frame {
  return {
    type: "stream_end",
    stream,
    after,
    upto: after + 1,
    reason,
    finish_reason: "stop",
    usage: { input_tokens: 1, output_tokens: 2, total_tokens: 3, source: "provider" },
    cost: null,
    metrics: { ttft_ms: 1, stream_ms: 2, total_ms: 3, tokens_per_s: 4 },
    error: null,
    warnings: [],
  };
}

/** A storage in memory. */
export function storage(): Pick<Storage, "getItem" | "setItem" | "removeItem"> & { held: Map<string, string> } {
  const held = new Map<string, string>();
  return {
    held,
    getItem: (key) => held.get(key) ?? null,
    setItem: (key, value) => void held.set(key, value),
    removeItem: (key) => void held.delete(key),
  };
}
