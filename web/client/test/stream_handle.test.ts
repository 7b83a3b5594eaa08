// A stream as a program reads it.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import type { Part } from "../src/parts.ts";
import type { Stream } from "../src/stream_handle.ts";
import { Scene, end, pass, settled, text } from "./server.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const ID = "r_1";
const ASKED = { model: "scripted/count", messages: "Count!", request_id: "one" };
const ACCEPTED = { type: "accepted", stream: ID, epoch: 1 };

async function accepted(scene: Scene): Promise<Stream> {
  const stream = scene.client.generate(ASKED);
  scene.opened();
  await settled();
  await scene.answer("generate", ACCEPTED);
  return stream;
}

/** Read all; the parts so far, as long as it goes on. */
function reading(stream: Stream): { parts: Part[]; over: Promise<void> } {
  const parts: Part[] = [];
  const over = (async () => {
    for await (const part of stream) parts.push(part);
  })();
  over.catch(() => {});
  return { parts, over };
}

describe("a generation", () => {
  it("is asked for with the first connection, and read from its start", async () => {
    const scene = new Scene();
    const stream = scene.client.generate({ ...ASKED, params: { max_tokens: 5 }, budget: { usd: 1 } });
    expect(stream.id).toBe(null);
    expect(stream.position).toBe(null);
    scene.opened();
    await settled();
    expect(scene.commands).toEqual([
      {
        type: "generate",
        request_id: "one",
        model: "scripted/count",
        messages: [{ role: "user", content: "Count!" }],
        params: { max_tokens: 5 },
        budget: { usd: 1 },
      },
    ]);
    await scene.answer("generate", ACCEPTED);
    scene.socket.say(text(ID, 0, "1 2"));
    scene.socket.say(end(ID, 3));
    expect(await stream.result).toMatchObject({ stream: ID, text: "1 2", reason: "complete", finish_reason: "stop" });
    expect(stream.ended).toBe(true);
    expect(stream.position).toEqual({ stream: ID, epoch: 1, offset: 4, characters: 3 });
  });

  it("that is refused ends its readers with the error", async () => {
    const scene = new Scene();
    const stream = scene.client.generate(ASKED);
    const { over } = reading(stream);
    const told = vi.fn();
    stream.on("error", told);
    scene.opened();
    await settled();
    await scene.answer("generate", { type: "error", code: "model.unknown", message: "no", retryable: false });
    await expect(over).rejects.toMatchObject({ code: "model.unknown" });
    await expect(stream.result).rejects.toMatchObject({ code: "model.unknown" });
    await expect(stream.cancel()).rejects.toMatchObject({ code: "model.unknown" });
    expect(told).toHaveBeenCalledOnce();
  });

  it("goes on behind its place on every connection", async () => {
    const scene = new Scene();
    const stream = await accepted(scene);
    scene.socket.say(text(ID, 0, "abc"));
    scene.socket.drop();
    await pass(0);
    scene.welcome();
    expect(scene.socket.sent[0]).toMatchObject({ resume: [{ stream: ID, epoch: 1, offset: 3 }] });
    scene.socket.say(text(ID, 3, "NO")); // sent before the server knew
    scene.socket.say({ type: "subscribed", stream: ID, epoch: 1, offset: 3, tail: 5, status: "open" });
    scene.socket.say(text(ID, 3, "de"));
    scene.socket.say(text(ID, 3, "de"));
    expect(stream.text).toBe("abcde");
  });

  it("asks again from a hole, and waits for the answer", async () => {
    const scene = new Scene();
    const stream = await accepted(scene);
    scene.socket.say(text(ID, 0, "abc"));
    scene.socket.say(text(ID, 5, "fg"));
    scene.socket.say(text(ID, 3, "NO"));
    expect(scene.commands.at(-1)).toEqual({ type: "subscribe", stream: ID, epoch: 1, offset: 3 });
    await scene.answer("subscribe", { type: "subscribed", stream: ID, epoch: 1, offset: 3, tail: 7, status: "open" });
    scene.socket.say(text(ID, 3, "defg"));
    expect(stream.text).toBe("abcdefg");
  });

  it("whose reply is asked for twice is read anew, and not twice", async () => {
    const scene = new Scene();
    const stream = scene.client.generate(ASKED);
    const { parts } = reading(stream);
    scene.opened();
    await settled();
    scene.socket.drop(); // the reply is lost
    await pass(0);
    scene.welcome();
    await settled();
    expect(scene.commands).toMatchObject([{ type: "generate", request_id: "one" }]);
    await scene.answer("generate", ACCEPTED);
    scene.socket.say(text(ID, 0, "abc"));
    await settled();
    expect(parts).toEqual([{ type: "text", text: "abc" }]);
  });
});

describe("parts", () => {
  it("are text, thinking, calls, seams and the end", async () => {
    const scene = new Scene();
    const { parts, over } = reading(await accepted(scene));
    const entries = [
      { type: "delta_thinking", text: "hm" },
      { type: "delta_text", text: "a" },
      { type: "seam", epoch: 2, attempt: 2, reason: "node_lost", continuation: "prefill", check: null, node: "n_2" },
      { type: "delta_text", text: "b" },
      { type: "delta_tool_call", index: 0, call_id: "c", name: "add", arguments: "{" },
      { type: "delta_tool_call", index: 0, arguments: "}" },
    ];
    for (const [after, entry] of entries.entries()) {
      scene.socket.say({ ...entry, stream: ID, after, upto: after + 1 });
      await settled();
    }
    scene.socket.say(end(ID, entries.length));
    await over;
    expect(parts).toMatchObject([
      { type: "thinking", text: "hm" },
      { type: "text", text: "a" },
      { type: "seam", at: 1, continuation: "prefill" },
      { type: "text", text: "b" },
      { type: "tool_call", index: 0, call_id: "c", name: "add", arguments: "{" },
      { type: "tool_call", index: 0, call_id: "c", name: "add", arguments: "}" },
      { type: "end", reason: "complete" },
    ]);
  });

  it("are larger for who is slow, and nothing is kept for him", async () => {
    const scene = new Scene();
    const stream = await accepted(scene);
    const slow = stream[Symbol.asyncIterator]();
    scene.socket.say(text(ID, 0, "a"));
    expect((await slow.next()).value).toEqual({ type: "text", text: "a" });
    for (let after = 1; after < 1_000; after += 1) scene.socket.say(text(ID, after, "x"));
    expect((await slow.next()).value).toEqual({ type: "text", text: "x".repeat(999) });
    const fresh = stream[Symbol.asyncIterator]();
    expect((await fresh.next()).value).toEqual({ type: "text", text: `a${"x".repeat(999)}` });
  });

  it("are left with break, and taken up again; nothing is stopped by it", async () => {
    const scene = new Scene();
    const stream = await accepted(scene);
    scene.socket.say(text(ID, 0, "abc"));
    for await (const part of stream) {
      expect(part).toEqual({ type: "text", text: "abc" });
      break;
    }
    scene.socket.say(text(ID, 3, "d"));
    expect(stream.text).toBe("abcd");
    expect(scene.commands.map((command) => (command as { type: string }).type)).toEqual(["generate"]);
  });

  it("are replaced by a snapshot", async () => {
    const scene = new Scene();
    const { parts } = reading(await accepted(scene));
    scene.socket.say(text(ID, 0, "abc"));
    await settled();
    const said = { text: "ABCD", thinking: "t", tool_calls: [], end: null, status: "open" };
    scene.socket.say({ type: "snapshot", stream: ID, epoch: 2, upto: 9, ...said });
    await settled();
    scene.socket.say(text(ID, 9, "E"));
    await settled();
    expect(parts).toEqual([
      { type: "text", text: "abc" },
      { type: "replace", text: "ABCD", thinking: "t", refusal: "", tool_calls: [] },
      { type: "text", text: "E" },
    ]);
  });
});

describe("text", () => {
  async function textOf(stream: Stream): Promise<string[]> {
    const pieces = [];
    for await (const piece of stream.textDeltas()) pieces.push(piece);
    return pieces;
  }

  const SNAPSHOT = { type: "snapshot", stream: ID, epoch: 2, thinking: "", tool_calls: [], end: null, status: "open" };

  it("has a snapshot only as a larger piece", async () => {
    const scene = new Scene();
    const pieces = textOf(await accepted(scene));
    scene.socket.say(text(ID, 0, "abc"));
    await settled();
    scene.socket.say({ ...SNAPSHOT, upto: 9, text: "abcdef" });
    await settled();
    scene.socket.say(end(ID, 9));
    expect(await pieces).toEqual(["abc", "def"]);
  });

  it("that was withdrawn says what stands in its place", async () => {
    const scene = new Scene();
    const stream = await accepted(scene);
    const pieces = textOf(stream);
    pieces.catch(() => {});
    scene.socket.say(text(ID, 0, "abc"));
    await settled();
    scene.socket.say({ ...SNAPSHOT, upto: 2, text: "aX" });
    await expect(pieces).rejects.toMatchObject({ name: "TextWithdrawn", text: "aX" });
    scene.socket.say(end(ID, 2));
    expect(await textOf(stream)).toEqual(["aX"]);
  });

  it("is not withdrawn by a restart before there was any", async () => {
    const scene = new Scene();
    const pieces = textOf(await accepted(scene));
    scene.socket.say({ type: "delta_thinking", text: "hm", stream: ID, after: 0, upto: 1 });
    await settled();
    const seam = { epoch: 2, attempt: 2, reason: "node_lost", continuation: "restart", check: null, node: "n" };
    scene.socket.say({ type: "seam", stream: ID, after: 1, upto: 2, ...seam });
    scene.socket.say(text(ID, 2, "abc"));
    scene.socket.say(end(ID, 5));
    expect(await pieces).toEqual(["abc"]);
  });
});

describe("a subscription", () => {
  it("to a place gives what follows, and a result that is whole", async () => {
    const scene = new Scene();
    scene.opened();
    const stream = scene.client.subscribe({ stream: ID, epoch: 1, offset: 3, characters: 3 });
    expect(scene.commands).toEqual([{ type: "subscribe", stream: ID, epoch: 1, offset: 3 }]);
    await scene.answer("subscribe", { type: "subscribed", stream: ID, epoch: 1, offset: 3, tail: 3, status: "open" });
    scene.socket.say(text(ID, 3, "de"));
    expect(stream.text).toBe("de");
    expect(stream.position).toEqual({ stream: ID, epoch: 1, offset: 5, characters: 5 });
    scene.socket.say(end(ID, 5));
    expect(scene.commands.at(-1)).toEqual({ type: "subscribe", stream: ID });
    scene.socket.drop();
    await pass(0);
    scene.welcome();
    expect(scene.socket.sent[0]).toMatchObject({ resume: [{ stream: ID }] });
    scene.socket.say({ type: "subscribed", stream: ID, epoch: 1, offset: 0, tail: 6, status: "ended" });
    scene.socket.say(text(ID, 0, "abcde"));
    scene.socket.say(end(ID, 5));
    expect((await stream.result).text).toBe("abcde");
    expect(stream.text).toBe("de");
  });

  it("to a place counts the text before it, where a snapshot answers", async () => {
    const scene = new Scene();
    scene.opened();
    const stream = scene.client.subscribe({ stream: ID, epoch: 1, offset: 3, characters: 3 });
    const said = { thinking: "", tool_calls: [], end: null, status: "open" };
    const pieces = stream.textDeltas()[Symbol.asyncIterator]();
    const next = pieces.next();
    await scene.answer("subscribe", { type: "snapshot", stream: ID, epoch: 2, upto: 5, text: "abcde", ...said });
    expect((await next).value).toBe("de");
  });

  it("to a place that a snapshot answers has its result without asking again", async () => {
    const scene = new Scene();
    scene.opened();
    const stream = scene.client.subscribe({ stream: ID, epoch: 1, offset: 3, characters: 3 });
    const said = { thinking: "", tool_calls: [], end: null, status: "open" };
    await scene.answer("subscribe", { type: "snapshot", stream: ID, epoch: 2, upto: 5, text: "abcde", ...said });
    scene.socket.say(end(ID, 5));
    expect((await stream.result).text).toBe("abcde");
    expect(scene.commands.length).toBe(1);
  });

  it("takes nothing for the answer to a question but the answer", async () => {
    const scene = new Scene();
    scene.opened();
    const stream = scene.client.subscribe(ID);
    // This one answers another question.
    scene.socket.say({ type: "subscribed", stream: ID, epoch: 1, offset: 7, tail: 9, status: "open" });
    scene.socket.say(text(ID, 0, "NO"));
    expect(stream.text).toBe("");
    await scene.answer("subscribe", { type: "subscribed", stream: ID, epoch: 1, offset: 0, tail: 9, status: "open" });
    scene.socket.say(text(ID, 0, "abc"));
    expect(stream.text).toBe("abc");
  });

  it("before there is a connection waits for one", async () => {
    const scene = new Scene();
    const stream = scene.client.subscribe(ID);
    scene.client.open();
    scene.socket.onopen?.();
    expect(scene.socket.sent[0]).toMatchObject({ resume: [{ stream: ID }] });
    const late = scene.client.subscribe("r_2"); // after the hello
    scene.welcome();
    expect(scene.commands.at(-1)).toEqual({ type: "subscribe", stream: "r_2" });
    expect([stream.id, late.id]).toEqual([ID, "r_2"]);
  });

  it("to a stream that there is not fails, and one that is not to be had now is asked for again", async () => {
    const scene = new Scene();
    scene.opened();
    const stream = scene.client.subscribe(ID);
    const away = { type: "error", code: "store.unavailable", message: "", retryable: true, retry_after_ms: 500 };
    await scene.answer("subscribe", away);
    await pass(2_500);
    expect(scene.commands.length).toBe(2);
    await scene.answer("subscribe", { type: "error", code: "stream.unknown", message: "", retryable: false });
    await expect(stream.result).rejects.toMatchObject({ code: "stream.unknown" });
    expect(scene.client.subscribe(ID)).not.toBe(stream);
  });

  it("to what is read already is the same one", async () => {
    const scene = new Scene();
    const stream = await accepted(scene);
    expect(scene.client.subscribe(ID)).toBe(stream);
  });

  it("and a repeated generation of the same stream read it once", async () => {
    const scene = new Scene();
    scene.opened();
    const subscribed = scene.client.subscribe(ID);
    await scene.answer("subscribe", { type: "subscribed", stream: ID, epoch: 1, offset: 0, tail: 3, status: "open" });
    scene.socket.say(text(ID, 0, "abc"));
    const repeated = scene.client.generate(ASKED);
    await settled();
    await scene.answer("generate", ACCEPTED); // it begins anew on this connection
    scene.socket.say(text(ID, 0, "abcd"));
    scene.socket.say(end(ID, 4));
    expect([subscribed.text, repeated.text]).toEqual(["abcd", "abcd"]);
    expect((await subscribed.result).text).toBe((await repeated.result).text);
    expect(scene.commands.length).toBe(2);
  });
});

describe("a stop", () => {
  const FENCE = { stream: ID, offset: 4 };

  it("is answered with the fence", async () => {
    const scene = new Scene();
    const stream = await accepted(scene);
    const stopped = stream.cancel();
    await scene.answer("cancel", { type: "cancelled", streams: [FENCE] });
    expect(await stopped).toEqual(FENCE);
  });

  it("is remembered while there is no connection, and given again where no reply came", async () => {
    const scene = new Scene();
    const stream = await accepted(scene);
    scene.socket.drop();
    const stopped = stream.cancel();
    await pass(0);
    scene.welcome();
    expect(scene.commands).toEqual([{ type: "cancel", stream: ID }]);
    scene.socket.drop();
    await pass(250);
    scene.welcome();
    await scene.answer("cancel", { type: "cancelled", streams: [FENCE] });
    expect(await stopped).toEqual(FENCE);
  });

  it("of what is not accepted yet follows the acceptance", async () => {
    const scene = new Scene();
    const stream = scene.client.generate(ASKED);
    const stopped = stream.cancel();
    scene.opened();
    await settled();
    await scene.answer("generate", ACCEPTED);
    await scene.answer("cancel", { type: "cancelled", streams: [FENCE] });
    expect(await stopped).toEqual(FENCE);
  });

  it("of what has ended is its end", async () => {
    const scene = new Scene();
    const stream = await accepted(scene);
    scene.socket.say(end(ID, 0));
    expect(await stream.cancel()).toEqual({ stream: ID, offset: 1 });
    expect(scene.commands.length).toBe(1);
  });

  it("that fails for the moment is given again, and one that is refused is told of", async () => {
    const scene = new Scene();
    const stream = await accepted(scene);
    const stopped = stream.cancel();
    const failed = expect(stopped).rejects.toMatchObject({ code: "auth.forbidden" });
    await scene.answer("cancel", { type: "error", code: "store.unavailable", message: "", retryable: true });
    await pass(2_000);
    await scene.answer("cancel", { type: "error", code: "auth.forbidden", message: "", retryable: false });
    await failed;
    expect(scene.commands.length).toBe(3);
  });
});
