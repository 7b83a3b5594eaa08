// Who the client says it is, and what it does when it is not believed.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import type { HelloCommand } from "../src/frames.ts";
import { Scene, pass, settled } from "./server.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const UNAUTHORIZED = 4501;
const EXPIRED = 4005;
const WARNING = { type: "error", code: "auth.required", message: "soon", retryable: true };

function tokens(scene: Scene): unknown[] {
  return scene.sockets.map((socket) => (socket.sent[0] as HelloCommand | undefined)?.token);
}

describe("a token", () => {
  it("goes out in every hello, and nowhere else", async () => {
    const scene = new Scene({ token: "mine" });
    scene.opened().drop();
    await pass(0);
    scene.welcome();
    expect(tokens(scene)).toEqual(["mine", "mine"]);
    expect(scene.socket.url).toBe("ws://server.test/ws");
  });

  it("is asked for anew before every connection, where it is a function", async () => {
    let number = 0;
    const scene = new Scene({ token: () => Promise.resolve(`token ${(number += 1)}`) });
    scene.client.open();
    expect(scene.sockets.length).toBe(0);
    await settled();
    scene.welcome();
    scene.socket.drop(EXPIRED, "expired");
    expect(scene.told).toEqual([]);
    await pass(0);
    scene.welcome();
    expect(tokens(scene)).toEqual(["token 1", "token 2"]);
  });

  it("that cannot be had is asked for again later", async () => {
    const source = vi.fn<() => string>(() => "mine");
    source.mockImplementationOnce(() => {
      throw new Error("away");
    });
    const scene = new Scene({ token: source });
    scene.client.open();
    expect(scene.last).toMatchObject({ state: "waiting", reason: "no token: Error: away" });
    await pass(0);
    scene.welcome();
    expect(scene.client.state).toBe("open");
  });

  it("that comes when nobody wants a connection any more makes none", async () => {
    const scene = new Scene({ token: () => Promise.resolve("late") });
    scene.client.open();
    scene.client.close();
    await settled();
    expect(scene.sockets.length).toBe(0);
  });
});

describe("a refusal", () => {
  it("says that a token is required, where there was none", () => {
    const scene = new Scene();
    scene.client.open();
    scene.socket.drop(UNAUTHORIZED, "who are you");
    expect(scene.told).toEqual(["required"]);
    expect(scene.client.state).toBe("refused");
  });

  it("of a text is final", async () => {
    const scene = new Scene({ token: "mine" });
    scene.client.open();
    scene.socket.drop(UNAUTHORIZED, "no");
    await pass(60_000);
    expect(scene.told).toEqual(["refused"]);
    expect(scene.sockets.length).toBe(1);
  });

  it("is taken back once, where a function has another token", async () => {
    let number = 0;
    const scene = new Scene({ token: () => `token ${(number += 1)}` });
    scene.client.open();
    scene.socket.drop(UNAUTHORIZED, "no");
    expect(scene.last).toMatchObject({ state: "waiting", code: UNAUTHORIZED });
    await pass(0);
    expect(scene.sockets.length).toBe(2);
    scene.socket.onopen?.();
    scene.socket.drop(UNAUTHORIZED, "no");
    expect(scene.told).toEqual(["refused"]);
    expect(scene.client.state).toBe("refused");
  });

  it("is final where the function has the same one", () => {
    const scene = new Scene({ token: () => "mine" });
    scene.client.open();
    scene.socket.drop(UNAUTHORIZED, "no");
    expect(scene.client.state).toBe("refused");
    expect(scene.told).toEqual(["refused"]);
  });

  it("is taken back once more after a connection", async () => {
    let number = 0;
    const scene = new Scene({ token: () => `token ${(number += 1)}` });
    for (let time = 0; time < 3; time += 1) {
      if (time === 0) scene.client.open();
      scene.welcome();
      scene.socket.drop(UNAUTHORIZED, "taken back");
      expect(scene.client.state).toBe("waiting");
      await pass(60_000);
    }
    expect(scene.told).toEqual([]);
  });
});

describe("a token that expires", () => {
  it("is told of, and of its end", () => {
    const scene = new Scene({ token: "mine" });
    const socket = scene.opened();
    socket.say(WARNING);
    socket.drop(EXPIRED, "expired");
    expect(scene.told).toEqual(["expiring", "expired"]);
    expect(scene.client.state).toBe("waiting");
  });

  it("is renewed in band, where a function has another one", async () => {
    let number = 0;
    const scene = new Scene({ token: () => Promise.resolve(`token ${(number += 1)}`) });
    scene.client.open();
    await settled();
    scene.welcome().say(WARNING);
    await settled();
    expect(scene.commands).toEqual([{ type: "auth", token: "token 2" }]);
    await scene.answer("auth", { type: "ok" });
    expect(scene.told).toEqual([]);
    expect(scene.client.state).toBe("open");
  });

  it("is told of where the new one is refused, or the same", async () => {
    let token = "first";
    const scene = new Scene({ token: () => token });
    scene.opened().say(WARNING);
    expect(scene.told).toEqual(["expiring"]);
    token = "second";
    scene.socket.say(WARNING);
    await scene.answer("auth", { type: "error", code: "auth.denied", message: "no", retryable: false });
    expect(scene.told).toEqual(["expiring", "expiring"]);
  });

  it("is renewed by hand", async () => {
    const scene = new Scene({ token: "mine" });
    scene.opened();
    const renewed = scene.client.renew("another");
    await scene.answer("auth", { type: "ok" });
    await renewed;
    scene.socket.drop();
    await pass(0);
    scene.welcome();
    expect(tokens(scene)).toEqual(["mine", "another"]);
    const refused = scene.client.renew("wrong");
    const failed = expect(refused).rejects.toMatchObject({ code: "auth.denied" });
    await scene.answer("auth", { type: "error", code: "auth.denied", message: "no", retryable: false });
    await failed;
    scene.socket.drop();
    await pass(0);
    scene.welcome();
    expect(tokens(scene).at(-1)).toBe("another");
  });

  it("is renewed for the next hello where there is no connection", async () => {
    const scene = new Scene();
    await scene.client.renew("first");
    scene.opened();
    expect(tokens(scene)).toEqual(["first"]);
  });
});
