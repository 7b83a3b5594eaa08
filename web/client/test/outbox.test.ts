// What was asked for is sent until it is answered, in its order, and starts nothing twice.

import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import type { GenerateCommand } from "../src/frames.ts";
import { Scene, pass, settled, storage } from "./server.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const MODEL = "scripted/count";

function asked(scene: Scene): unknown[] {
  const generates = scene.socket.sent.filter((command): command is GenerateCommand => command.type === "generate");
  return generates.map(({ request_id }) => request_id);
}

function accept(scene: Scene, stream: string): Promise<unknown> {
  return scene.answer("generate", { type: "accepted", stream, epoch: 1 });
}

describe("requests", () => {
  it("go one after the other, each after the answer to the one before", async () => {
    const scene = new Scene();
    for (const request_id of ["a", "b", "c"]) scene.client.generate({ model: MODEL, messages: "?", request_id });
    scene.opened();
    await settled();
    expect(asked(scene)).toEqual(["a"]);
    await accept(scene, "r_a");
    expect(asked(scene)).toEqual(["a", "b"]);
    await scene.answer("generate", { type: "error", code: "model.unknown", message: "", retryable: false });
    expect(asked(scene)).toEqual(["a", "b", "c"]);
  });

  it("without an answer are sent again, with the same ids and in the same order", async () => {
    const course = fc.array(fc.constantFrom("ask", "break", "answer"), { maxLength: 30 });
    await fc.assert(
      fc.asyncProperty(course, async (steps) => {
        const scene = new Scene();
        scene.opened();
        let made = 0;
        const answered: unknown[] = [];
        for (const step of steps) {
          if (step === "ask") scene.client.generate({ model: MODEL, messages: "?", request_id: `q${(made += 1)}` });
          await settled();
          if (step === "break") {
            scene.socket.drop();
            await pass(0);
            scene.welcome();
            await settled();
          }
          if (step === "answer" && asked(scene).length > 0 && !answered.includes(asked(scene).at(-1))) {
            answered.push(asked(scene).at(-1));
            await accept(scene, `r_${answered.length}`);
          }
        }
        while (answered.length < made) {
          answered.push(asked(scene).at(-1));
          await accept(scene, `r_${answered.length}`);
        }
        expect(answered).toEqual(Array.from({ length: made }, (_, number) => `q${number + 1}`));
        scene.client.close();
      }),
      { numRuns: 50 },
    );
  });

  it("to a server that goes away are sent to the next one", async () => {
    const scene = new Scene();
    scene.client.generate({ model: MODEL, messages: "?", request_id: "a" });
    scene.opened();
    await settled();
    await scene.answer("generate", { type: "error", code: "node.draining", message: "", retryable: true });
    scene.socket.drop(4001);
    await pass(0);
    scene.welcome();
    await settled();
    expect(asked(scene)).toEqual(["a"]);
  });

  it("have ids of their own where nobody gives them", async () => {
    const scene = new Scene();
    scene.client.generate({ model: MODEL, messages: "?" });
    scene.opened();
    await settled();
    expect(asked(scene)[0]).toMatch(/^[0-9a-f]{32}$/);
  });
});

describe("a storage", () => {
  it("keeps over a reload what has no answer, and nothing else", async () => {
    const kept = storage();
    const first = new Scene({ storage: kept });
    for (const request_id of ["a", "b"]) first.client.generate({ model: MODEL, messages: "?", request_id });
    first.opened();
    await settled();
    await accept(first, "r_a");
    const second = new Scene({ storage: kept }); // a reload
    const stream = second.client.generate({ model: MODEL, messages: "?", request_id: "b" });
    second.opened();
    await settled();
    expect(asked(second)).toEqual(["b"]);
    await accept(second, "r_b");
    expect(stream.id).toBe("r_b");
    expect(kept.held.size).toBe(0);
  });

  it("keeps what nobody asks for any more; it is sent, and not read", async () => {
    const kept = storage();
    new Scene({ storage: kept }).client.generate({ model: MODEL, messages: "?", request_id: "a" });
    const scene = new Scene({ storage: kept });
    scene.opened();
    await settled();
    await accept(scene, "r_a");
    expect(scene.commands.at(-1)).toEqual({ type: "unsubscribe", stream: "r_a" });
    expect(kept.held.size).toBe(0);
  });

  it("that is full, forbidden or spoilt loses what it should keep, and nothing else", async () => {
    const refuses = () => {
      throw new Error("full");
    };
    const scene = new Scene({ storage: { getItem: () => "{", setItem: refuses, removeItem: refuses } });
    scene.client.generate({ model: MODEL, messages: "?", request_id: "a" });
    scene.opened();
    await settled();
    expect(asked(scene)).toEqual(["a"]);
  });
});
