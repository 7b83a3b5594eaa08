// Where no WebSocket comes through: which transport is tried when, and events with POST.

import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { Client } from "../src/client.ts";
import { Routes } from "../src/routes.ts";
import { EventParser } from "../src/sse.ts";
import { Scene, WELCOME, end, pass, settled, text } from "./server.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

interface Asked {
  url: URL;
  method: string;
  headers: Record<string, string>;
  body: unknown;
  answer(response: Response): void;
  fail(): void;
}

/** Requests that are answered by hand. */
class FakeHttp {
  readonly asked: Asked[] = [];
  #events: ReadableStreamDefaultController<Uint8Array> | null = null;

  readonly fetch = ((url: URL, init: RequestInit) =>
    new Promise<Response>((resolve, reject) => {
      init.signal?.addEventListener("abort", () => reject(new Error("aborted")));
      this.asked.push({
        url,
        method: init.method ?? "GET",
        headers: init.headers as Record<string, string>,
        body: typeof init.body === "string" ? JSON.parse(init.body) : null,
        answer: resolve,
        fail: () => reject(new TypeError("failed to fetch")),
      });
    })) as typeof fetch;

  get last(): Asked {
    const asked = this.asked.at(-1);
    if (asked === undefined) throw new Error("nothing was asked");
    return asked;
  }

  /** Answer the newest request with events, and say welcome. */
  async welcome(connection = "c_1"): Promise<void> {
    const body = new ReadableStream<Uint8Array>({ start: (events) => void (this.#events = events) });
    this.last.answer(new Response(body, { status: 200, headers: { "content-type": "text/event-stream" } }));
    await this.say({ ...WELCOME, connection });
  }

  async say(...frames: object[]): Promise<void> {
    await this.pour(frames.map((frame) => `data: ${JSON.stringify(frame)}\n\n`).join(""));
  }

  async pour(said: string): Promise<void> {
    this.#events?.enqueue(new TextEncoder().encode(said));
    await passed();
  }

  async endEvents(): Promise<void> {
    this.#events?.close();
    await passed();
  }

  async taken(): Promise<void> {
    this.last.answer(new Response('{"connection":"c_1"}', { status: 202 }));
    await passed();
  }

  async refuse(status: number, error: object): Promise<void> {
    this.last.answer(new Response(JSON.stringify({ error }), { status }));
    await passed();
  }
}

/** Streams go on in turns of the loop that are real. */
async function passed(): Promise<void> {
  for (let turn = 0; turn < 5; turn += 1) {
    await settled();
    await new Promise((resolve) => process.nextTick(resolve));
  }
  await pass(0);
}

function overHttp(options = {}): { http: FakeHttp; scene: Scene } {
  const http = new FakeHttp();
  const given = { url: "wss://server.test/chat/ws", fetch: http.fetch, transport: "http" as const, ...options };
  return { http, scene: new Scene(given) };
}

describe("a transport", () => {
  it("is HTTP after two WebSockets that never came through", () => {
    const routes = new Routes("auto");
    expect(routes.next(0)).toBe("websocket");
    routes.failed("websocket");
    expect(routes.next(0)).toBe("websocket");
    routes.failed("websocket");
    expect(routes.next(0)).toBe("http");
  });

  it("is HTTP only after six, where one came through before", () => {
    const routes = new Routes("auto");
    routes.worked("websocket", 0);
    for (let failure = 0; failure < 6; failure += 1) {
      expect(routes.next(0)).toBe("websocket");
      routes.failed("websocket");
    }
    expect(routes.next(0)).toBe("http");
  });

  it("is kept for five minutes, and then a WebSocket is tried", () => {
    const routes = new Routes("auto");
    routes.failed("websocket");
    routes.failed("websocket");
    routes.worked("http", 1_000);
    expect(routes.next(300_999)).toBe("http");
    expect(routes.next(301_000)).toBe("websocket");
    routes.failed("websocket");
    expect(routes.next(301_001)).toBe("http"); // at once
    routes.worked("http", 301_002);
    expect(routes.next(601_002)).toBe("websocket");
    routes.worked("websocket", 601_003);
    expect(routes.next(601_004)).toBe("websocket");
  });

  it("takes turns where neither comes through", () => {
    const routes = new Routes("auto");
    const tried = [];
    for (let attempt = 0; attempt < 7; attempt += 1) {
      const next = routes.next(attempt);
      tried.push(next);
      routes.failed(next);
    }
    expect(tried).toEqual(["websocket", "websocket", "http", "websocket", "http", "websocket", "http"]);
  });

  it("is HTTP at once where there are no WebSockets, as in Node.js 20", () => {
    vi.stubGlobal("WebSocket", undefined);
    const http = new FakeHttp();
    const client = new Client({ url: "ws://server.test/ws", transport: "auto", fetch: http.fetch });
    client.open();
    expect(client.transport).toBe("http");
    client.close();
    vi.unstubAllGlobals();
  });

  it("is the one that was asked for", () => {
    for (const mode of ["websocket", "http"] as const) {
      const routes = new Routes(mode);
      for (let failure = 0; failure < 9; failure += 1) routes.failed(mode);
      expect(routes.next(0)).toBe(mode);
    }
  });

  it("is found by a client, which goes on in mid-stream", async () => {
    const { http, scene } = overHttp({ transport: "auto" });
    const stream = scene.client.generate({ model: "scripted/count", messages: "Count!" });
    scene.client.open();
    scene.socket.drop();
    await pass(0);
    scene.socket.drop();
    await pass(0);
    expect(scene.client.transport).toBe("http");
    await http.welcome();
    await http.taken();
    await http.say({ type: "accepted", id: 1, stream: "r_1", epoch: 7 }, text("r_1", 0, "abc"));
    for (let beat = 0; beat < 13; beat += 1) {
      await pass(25_000);
      await http.pour(": still here\n");
    }
    await http.endEvents();
    expect(scene.client.transport).toBe("websocket");
    const socket = scene.welcome();
    expect(socket.sent[0]).toMatchObject({ resume: [{ stream: "r_1", epoch: 7, offset: 3 }] });
    socket.say({ type: "subscribed", stream: "r_1", epoch: 7, offset: 3, tail: 4, status: "open" });
    socket.say(text("r_1", 3, "d"));
    socket.say(end("r_1", 4));
    expect((await stream.result).text).toBe("abcd");
  });
});

describe("events", () => {
  it("are read however they are cut into pieces", () => {
    const event = fc.string({ unit: "grapheme" }).map((value) => ({ value }));
    const said = fc.array(fc.oneof(fc.constant(": still here"), event));
    fc.assert(
      fc.property(said, fc.array(fc.nat(40)), fc.constantFrom("\n", "\r\n"), (events, cuts, line) => {
        const written = (data: object) => `id: 1${line}data: ${JSON.stringify(data)}${line}${line}`;
        const whole = events.map((one) => (typeof one === "string" ? `${one}${line}` : written(one))).join("");
        const parser = new EventParser();
        const heard = [];
        let at = 0;
        for (const cut of [...cuts, whole.length]) {
          heard.push(...parser.push(whole.slice(at, at + cut)));
          at += cut;
        }
        expect(heard.map((data) => JSON.parse(data))).toEqual(events.filter((one) => typeof one !== "string"));
      }),
    );
  });

  it("name the places, and show the token, in no address", async () => {
    const { http, scene } = overHttp({ token: "mine" });
    scene.client.subscribe({ stream: "r_1", epoch: 5, offset: 9 });
    scene.client.subscribe("r_2");
    scene.client.open();
    expect(http.last.url.href).toBe("https://server.test/chat/v1/events?at=r_1%2C5%2C9&at=r_2");
    expect(http.last.headers).toEqual({ accept: "text/event-stream", authorization: "Bearer mine" });
    await http.welcome();
    expect(scene.client.state).toBe("open");
    expect(http.asked.length).toBe(1);
  });

  it("that an address has no room for are subscribed to by commands", async () => {
    const { http, scene } = overHttp();
    for (let number = 0; number < 66; number += 1) scene.client.subscribe(`r_${number}`);
    scene.client.open();
    expect(http.last.url.searchParams.getAll("at").length).toBe(64);
    await http.welcome();
    const commands = [
      { type: "subscribe", stream: "r_64" },
      { type: "subscribe", stream: "r_65" },
    ];
    const [first] = commands;
    expect(http.last.body).toEqual({ connection: "c_1", commands: [first] });
    await http.taken();
    expect(http.last.body).toEqual({ connection: "c_1", commands: [commands[1]] });
  });

  it("that end are opened anew", async () => {
    const { http, scene } = overHttp();
    scene.client.open();
    await http.welcome();
    await http.endEvents();
    expect(scene.states.at(-2)).toMatchObject({ state: "waiting", reason: "the events have ended" });
    expect(http.asked.length).toBe(2);
  });

  it("keep the connection alive by their comments", async () => {
    const { http, scene } = overHttp();
    scene.client.open();
    await http.welcome();
    for (let beat = 0; beat < 5; beat += 1) {
      await pass(20_000);
      await http.pour(": still here\n");
    }
    expect(scene.client.state).toBe("open");
    await pass(31_001);
    expect(scene.states.some(({ reason }) => reason === "nothing was heard")).toBe(true);
  });

  it.each([
    [401, "auth.denied", { state: "refused", code: 4501 }],
    [403, "auth.forbidden", { state: "refused", code: 4503 }],
    [503, "store.unavailable", { state: "waiting", inMs: 900 }],
    [429, "limit.rate", { state: "waiting", inMs: 900 }],
    [404, "request.not_found", { state: "waiting", code: 1006 }],
  ])("that are refused with %i", async (status, code, expected) => {
    const { http, scene } = overHttp();
    scene.client.open();
    await http.refuse(status, { code, message: "no", retry_after_ms: status === 404 ? 0 : 900 });
    expect(scene.states.find(({ state }) => state !== "connecting")).toMatchObject(expected);
  });
});

describe("commands over HTTP", () => {
  it("go one request after the other, several in one", async () => {
    const { http, scene } = overHttp();
    scene.client.open();
    await http.welcome();
    const asked = scene.client.request({ type: "models" });
    scene.client.send({ type: "ping" });
    scene.client.send({ type: "typing", session: "s_1", typing: true });
    expect(http.last.body).toEqual({ connection: "c_1", commands: [{ type: "models", id: 1 }] });
    expect(http.last.url.href).toBe("https://server.test/chat/v1/commands");
    await http.say({ type: "ok", id: 1, models: [] });
    expect(await asked).toMatchObject({ models: [] });
    expect(http.asked.length).toBe(2);
    await http.taken();
    expect(http.last.body).toMatchObject({ commands: [{ type: "ping" }, { type: "typing" }] });
  });

  it("are carried out where they arrive when the events are elsewhere, and events are opened there", async () => {
    const { http, scene } = overHttp();
    const stream = scene.client.generate({ model: "scripted/count", messages: "Count!", request_id: "one" });
    scene.client.open();
    await http.welcome();
    await http.refuse(404, { code: "request.not_found", message: "no such event connection" });
    expect(http.last.body).toMatchObject([{ type: "generate", request_id: "one", id: 1 }]);
    const reply = { type: "accepted", id: 1, stream: "r_1", epoch: 7 };
    http.last.answer(new Response(JSON.stringify({ replies: [reply] }), { status: 200 }));
    await passed();
    expect(stream.id).toBe("r_1");
    expect(http.last.url.searchParams.getAll("at")).toEqual(["r_1"]);
    await http.welcome("c_2");
    await http.say({ type: "subscribed", stream: "r_1", epoch: 7, offset: 0, tail: 4, status: "ended" });
    await http.say(text("r_1", 0, "abc"), end("r_1", 3));
    expect((await stream.result).text).toBe("abc");
  });

  it("that are lost on their way end the connection", async () => {
    const { http, scene } = overHttp();
    scene.client.open();
    await http.welcome();
    const asked = scene.client.request({ type: "models" });
    const failed = expect(asked).rejects.toMatchObject({ code: "connection.lost" });
    http.last.fail();
    await passed();
    await failed;
    expect(http.last.url.pathname).toBe("/chat/v1/events");
  });

  it("that nobody takes end the connection", async () => {
    const { http, scene } = overHttp();
    scene.client.open();
    await http.welcome();
    scene.client.send({ type: "ping" });
    await pass(20_000);
    await passed();
    expect(scene.states.some(({ reason }) => reason === "a command was not taken")).toBe(true);
  });

  it("show a renewed token", async () => {
    const { http, scene } = overHttp({ token: "mine" });
    scene.client.open();
    await http.welcome();
    const renewed = scene.client.renew("another");
    expect(http.last.headers.authorization).toBe("Bearer mine");
    await http.taken();
    await http.say({ type: "ok", id: 1 });
    await renewed;
    scene.client.send({ type: "ping" });
    expect(http.last.headers.authorization).toBe("Bearer another");
  });

});
