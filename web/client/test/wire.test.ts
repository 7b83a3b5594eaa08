// The connection: when it is open, when it is dead, when it comes back, and when not.

import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { BACKOFF_FIRST_MS, BACKOFF_MOST_MS, backoffMs } from "../src/backoff.ts";
import { addressBeside } from "../src/websocket.ts";
import { isFinal } from "../src/wire.ts";
import { HEARTBEAT_MS, Scene, pass, settled } from "./server.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

describe("a connection is made", () => {
  it("with a hello first, and is open with the welcome", () => {
    const scene = new Scene({ name: "test/1" });
    scene.client.open();
    expect(scene.socket.sent).toEqual([]);
    scene.socket.onopen?.();
    expect(scene.socket.sent).toEqual([{ type: "hello", client: "test/1", resume: [] }]);
    expect(scene.client.state).toBe("connecting");
    scene.welcome();
    expect(scene.client.state).toBe("open");
    expect(scene.client.transport).toBe("websocket");
    expect(scene.client.welcome?.user.id).toBe("ada");
    expect(scene.states.map(({ state }) => state)).toEqual(["connecting", "open"]);
  });

  it("once, however often one opens", () => {
    const scene = new Scene();
    scene.opened();
    scene.client.open();
    scene.client.open();
    expect(scene.sockets.length).toBe(1);
  });

  it("at the address beside the page", () => {
    expect(addressBeside("https://host/chat/index.html?q=1#s_1").href).toBe("wss://host/chat/ws");
    expect(addressBeside("http://host:8000/").href).toBe("ws://host:8000/ws");
  });

  it("in the subprotocol of its encoding", async () => {
    expect(new Scene().opened().protocols).toEqual(["everstream.v1.json"]);
    const scene = new Scene({ encoding: "msgpack" });
    scene.client.open();
    await vi.dynamicImportSettled();
    await settled();
    expect(scene.socket.protocols).toEqual(["everstream.v1.msgpack"]);
    expect(scene.socket.binaryType).toBe("arraybuffer");
    expect([new Scene().client.encoding, scene.client.encoding]).toEqual(["json", "msgpack"]);
  });

  it("anew where no welcome comes within ten seconds", async () => {
    const scene = new Scene();
    scene.client.open();
    scene.socket.onopen?.();
    await pass(9_000);
    expect(scene.client.state).toBe("connecting");
    await pass(2_001);
    expect(scene.sockets.length).toBe(2);
    expect(scene.sockets[0]?.isClosed).toBe(true);
  });

  it("and what an old one still says is not heard", async () => {
    const scene = new Scene();
    const first = scene.opened();
    const { onmessage } = first;
    scene.client.close();
    scene.client.open();
    onmessage?.({ data: JSON.stringify({ type: "error", code: "internal", message: "" }) });
    expect(scene.told).toEqual([]);
    expect(scene.client.state).toBe("connecting");
  });

  it("anew where a frame cannot be read", async () => {
    const scene = new Scene();
    scene.chance = 1;
    scene.opened().onmessage?.({ data: "{" });
    expect(scene.client.state).toBe("waiting");
    expect(scene.socket.isClosed).toBe(true);
  });
});

describe("a lost connection comes back", () => {
  it("within full jitter below a ceiling that doubles to fifteen seconds", () => {
    fc.assert(
      fc.property(fc.nat(200), fc.double({ min: 0, max: 1, noNaN: true }), (attempt, chance) => {
        const ceiling = Math.min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS * 2 ** attempt);
        expect(backoffMs(attempt, () => chance)).toBe(chance * ceiling);
      }),
    );
  });

  it("later each time, until one has settled", async () => {
    const scene = new Scene();
    scene.chance = 1;
    scene.client.open();
    const waits = [];
    for (let attempt = 0; attempt < 8; attempt += 1) {
      scene.socket.drop();
      waits.push(scene.last.inMs);
      await pass(scene.last.inMs ?? 0);
    }
    expect(waits).toEqual([250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
    scene.welcome();
    await pass(4_999);
    scene.socket.drop();
    expect(scene.last.inMs).toBe(15_000); // it did not live long
    await pass(15_000);
    scene.welcome();
    await pass(5_001);
    scene.socket.drop(1006, "away");
    expect(scene.last).toEqual({ state: "waiting", transport: null, inMs: 250, code: 1006, reason: "away" });
  });

  it("not before the time that an error asked for just before the close", async () => {
    const scene = new Scene();
    const socket = scene.opened();
    socket.say({ type: "error", code: "limit.rate", message: "slower", retryable: true, retry_after_ms: 700 });
    socket.drop(4003);
    expect(scene.last.inMs).toBe(700);
    scene.client.wake();
    expect(scene.client.state).toBe("waiting");
    await pass(700);
    expect(scene.client.state).toBe("connecting");
    expect(scene.told).toEqual(["limit.rate"]);
  });

  it("at once when it is woken", () => {
    const scene = new Scene();
    scene.chance = 1;
    scene.opened().drop();
    expect(scene.client.state).toBe("waiting");
    scene.client.wake();
    expect(scene.client.state).toBe("connecting");
    expect(scene.sockets.length).toBe(2);
  });

  it("never after close(), and again after open()", async () => {
    const scene = new Scene();
    scene.opened();
    scene.client.close();
    await pass(60_000);
    expect(scene.sockets.length).toBe(1);
    expect(scene.client.state).toBe("closed");
    expect(scene.client.transport).toBe(null);
    scene.opened();
    expect(scene.client.state).toBe("open");
  });

  it.each([1001, 1006, 1011, 1012, 4000, 4001, 4002, 4003, 4004, 4499, 5000])("after a close with %i", (code) => {
    const scene = new Scene();
    scene.opened().drop(code);
    expect(scene.last.state).toBe("waiting");
  });

  it.each([1009, 4500, 4501, 4503, 4509, 4510, 4999])("not after a close with %i but by open()", async (code) => {
    const scene = new Scene();
    scene.opened().drop(code, "no");
    expect(scene.last).toEqual({ state: "refused", transport: null, code, reason: "no" });
    await pass(60_000);
    scene.client.wake();
    expect(scene.sockets.length).toBe(1);
    expect(isFinal(code)).toBe(true);
    scene.opened();
    expect(scene.client.state).toBe("open");
  });
});

describe("a dead connection is noticed", () => {
  it("when it is dropped, and comes back by itself", async () => {
    const scene = new Scene();
    scene.client.drop();
    expect(scene.client.state).toBe("closed");
    scene.opened();
    scene.client.drop();
    expect(scene.socket.isClosed).toBe(true);
    expect([scene.client.state, scene.last.reason]).toEqual(["waiting", "dropped here"]);
    await pass(250);
    expect(scene.sockets.length).toBe(2);
  });

  it("when nothing was heard for twice the heartbeat", async () => {
    const scene = new Scene();
    scene.chance = 1;
    const socket = scene.opened();
    await pass(HEARTBEAT_MS + 10_000);
    socket.say({ type: "heartbeat" });
    await pass(2 * HEARTBEAT_MS - 1_000);
    expect(scene.client.state).toBe("open");
    await pass(2_001);
    expect(scene.last.reason).toBe("nothing was heard");
    expect(socket.isClosed).toBe(true);
  });

  it("when a probe is not answered within three seconds", async () => {
    const scene = new Scene();
    scene.chance = 1;
    scene.opened();
    scene.client.wake();
    scene.client.wake();
    expect(scene.commands).toEqual([{ type: "ping" }]);
    await pass(4_001);
    expect(scene.states.map(({ state }) => state)).toContain("waiting");
  });

  it("and one that answers is left alone", async () => {
    const scene = new Scene();
    const socket = scene.opened();
    scene.client.wake();
    socket.say({ type: "pong" });
    await pass(20_000);
    expect(scene.client.state).toBe("open");
    scene.client.wake();
    expect(scene.commands.length).toBe(2); // each waking up is a question of its own
  });

  it("at once where the browser says that the network is gone, or back", async () => {
    const page = new EventTarget();
    vi.stubGlobal("window", page);
    vi.stubGlobal("document", Object.assign(new EventTarget(), { visibilityState: "visible" }));
    const scene = new Scene();
    scene.chance = 1;
    scene.opened();
    page.dispatchEvent(new Event("offline"));
    expect(scene.commands).toEqual([{ type: "ping" }]);
    await pass(4_100);
    expect(scene.last.state).toBe("waiting");
    page.dispatchEvent(new Event("offline"));
    expect(scene.last.state).toBe("waiting");
    page.dispatchEvent(new Event("online"));
    expect(scene.last.state).toBe("connecting");
    scene.client.close();
    page.dispatchEvent(new Event("online"));
    expect(scene.last.state).toBe("closed");
    vi.unstubAllGlobals();
  });
});

describe("a server that goes away", () => {
  it("is left at a time of the client's own, for another connection", async () => {
    const scene = new Scene();
    const socket = scene.opened();
    await pass(10_000);
    scene.chance = 0.5;
    socket.say({ type: "goaway", after_ms: 8_000, reason: "draining" });
    await pass(3_999);
    expect(scene.client.state).toBe("open");
    await pass(1);
    expect(socket.isClosed).toBe(true);
    expect(scene.client.state).toBe("connecting");
    expect(scene.states.map(({ state }) => state)).toEqual(["connecting", "open", "connecting"]);
  });

  it("is left after what is under way, but in time", async () => {
    const scene = new Scene();
    scene.opened();
    await pass(10_000);
    const asked = scene.client.request({ type: "models" });
    scene.socket.say({ type: "goaway", after_ms: 1_000, reason: "draining" });
    await pass(500);
    expect(scene.client.state).toBe("open");
    await scene.answer("models", { type: "ok", models: [] });
    expect(await asked).toEqual({ type: "ok", models: [], id: 1 });
    await pass(100);
    expect(scene.client.state).toBe("connecting");
    scene.welcome();
    await pass(10_000);
    const lost = scene.client.request({ type: "models" });
    const failed = expect(lost).rejects.toMatchObject({ code: "connection.lost" });
    scene.socket.say({ type: "goaway", after_ms: 1_000, reason: "draining" });
    await pass(1_100);
    await failed;
    expect(scene.sockets.length).toBe(3);
  });

  it("is not met again in a hurry by who has just come", async () => {
    const scene = new Scene();
    scene.chance = 0.5;
    scene.opened().say({ type: "goaway", after_ms: 100, reason: "draining" });
    await pass(50);
    expect(scene.last).toMatchObject({ state: "waiting", inMs: 125 });
  });
});

describe("commands", () => {
  it("are answered by their ids, in any order", async () => {
    const scene = new Scene();
    const socket = scene.opened();
    const first = scene.client.request({ type: "models" });
    const second = scene.client.request({ type: "session.list" });
    socket.say({ type: "ok", id: 2, sessions: [], next: null });
    socket.say({ type: "error", id: 1, code: "internal", message: "no", retryable: true, retry_after_ms: 5 });
    expect(await second).toMatchObject({ sessions: [] });
    await expect(first).rejects.toMatchObject({ code: "internal", retryable: true, retry_after_ms: 5 });
  });

  it("without a connection are lost, and can be asked again", async () => {
    const scene = new Scene();
    expect(scene.client.send({ type: "ping" })).toBe(false);
    const lost = { name: "CommandError", code: "connection.lost", retryable: true };
    await expect(scene.client.request({ type: "models" })).rejects.toMatchObject(lost);
    const socket = scene.opened();
    const asked = scene.client.request({ type: "models" });
    socket.drop();
    await expect(asked).rejects.toMatchObject(lost);
  });

  it("larger than the server takes are not sent", async () => {
    const scene = new Scene();
    const socket = scene.opened();
    const title = "é".repeat(5_000); // ten thousand bytes
    await expect(scene.client.request({ type: "session.create", title })).rejects.toMatchObject({
      code: "protocol.too_large",
      retryable: false,
    });
    expect(scene.client.send({ type: "session.create", title: "é".repeat(4_900) })).toBe(true);
    expect(socket.sent.length).toBe(2);
  });

  it("are no more at a time than the server takes, and none is forgotten", async () => {
    const scene = new Scene();
    scene.opened();
    const asked = Array.from({ length: 11 }, () => scene.client.request({ type: "models" }));
    const failures = Promise.allSettled(asked.slice(1));
    expect(scene.commands.length).toBe(8);
    scene.socket.say({ type: "ok", id: 1, models: [] });
    expect(await asked[0]).toMatchObject({ models: [] });
    expect(scene.commands.length).toBe(9);
    scene.socket.drop();
    expect((await failures).map(({ status }) => status)).toEqual(Array.from({ length: 10 }, () => "rejected"));
  });

  it("that are safe to repeat are asked again with the next connection", async () => {
    const scene = new Scene();
    scene.client.open();
    const asked = scene.client.models();
    scene.welcome();
    await settled();
    expect(scene.commands).toEqual([{ type: "models" }]);
    scene.socket.drop();
    await pass(0);
    scene.welcome();
    await settled();
    await scene.answer("models", { type: "ok", models: [{ id: "a/b" }] });
    expect(await asked).toEqual([{ id: "a/b" }]);
    scene.client.close();
    await expect(scene.client.models()).rejects.toMatchObject({ code: "connection.closed" });
  });

  it("and frames can be watched, but no token", () => {
    const scene = new Scene({ token: "secret" });
    const seen: object[] = [];
    const stop = scene.client.on("frame", (frame) => seen.push(frame));
    scene.opened();
    expect(seen).toMatchObject([
      { direction: "out", frame: { type: "hello", token: "…" } },
      { direction: "in", frame: { type: "welcome" } },
    ]);
    expect(scene.socket.sent[0]).toMatchObject({ token: "secret" });
    expect((seen[1] as { bytes: number }).bytes).toBeGreaterThan(100);
    stop();
    scene.client.send({ type: "ping" });
    expect(seen.length).toBe(2);
  });
});
