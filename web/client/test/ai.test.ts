// What a page of the AI SDK asks and is shown, without the SDK; with it, tests/web/ai_sdk.

import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { Chunks } from "../src/ai_chunks.ts";
import { chunksOf, continuedIn, messagesOf, toolsOf } from "../src/ai_messages.ts";
import type { UiChunk, UiMessage } from "../src/ai_types.ts";
import type { Frame } from "../src/frames.ts";
import { applyFrame, newStream } from "../src/stream.ts";
import type { StreamState } from "../src/stream.ts";
import { Chance } from "./chance.ts";

const STREAM = "r_1";
const usage = { input_tokens: 1, output_tokens: 2, total_tokens: 3, source: "provider" };
const complete = { type: "stream_end", reason: "complete", finish_reason: "stop", usage, cost: null, error: null };
const text = (piece: string) => ({ type: "delta_text", text: piece });
const thinking = (piece: string) => ({ type: "delta_thinking", text: piece });
const call = (piece: string, named = {}) => ({ type: "delta_tool_call", index: 0, arguments: piece, ...named });

interface Shown {
  chunks: UiChunk[];
  view: Chunks;
  state: StreamState;
}

/** What a page is sent of entries that come one after the other. */
function shown(entries: object[], tools: string[] = [], earlier: UiChunk[] = []): Shown {
  const view = new Chunks({ message: "", tools, earlier }, earlier.length > 0);
  const state = newStream(STREAM, 9);
  const chunks = entries.flatMap((entry, after) => {
    const frame = { stream: STREAM, after, upto: after + 1, ...entry } as unknown as Frame;
    return view.take(state, frame, applyFrame(state, frame));
  });
  return { chunks, view, state };
}

function kinds(chunks: UiChunk[]): string {
  return chunks.map(({ type }) => type).join(" ");
}

/** A page's message, by the rules of the SDK: what is in it at the end. */
function written(chunks: UiChunk[]): { text: string; reasoning: string } {
  const message = { text: "", reasoning: "" };
  for (const chunk of chunks) {
    if (chunk.type === "reset-step") Object.assign(message, { text: "", reasoning: "" });
    if (chunk.type === "text-delta") message.text += chunk.delta;
    if (chunk.type === "reasoning-delta") message.reasoning += chunk.delta;
  }
  return message;
}

describe("an answer", () => {
  it("begins with its first piece, has parts that end before the next, and its usage in the end", () => {
    const { chunks } = shown([{ type: "request_start" }, thinking("hm"), text("a"), text("b"), complete]);
    const parts = "reasoning-start reasoning-delta reasoning-end text-start text-delta text-delta text-end";
    expect(kinds(chunks)).toBe(`start start-step ${parts} finish-step finish`);
    expect(chunks[0]).toEqual({ type: "start", messageId: STREAM, messageMetadata: { stream: STREAM } });
    const used = { inputTokens: 1, outputTokens: 2, totalTokens: 3 };
    const finish = { finishReason: "stop", messageMetadata: { stream: STREAM, usage: used } };
    expect(chunks.at(-1)).toEqual({ type: "finish", ...finish });
  });

  it("is nothing at all where it is refused before a word", () => {
    const error = { code: "provider.auth", message: "no key", retryable: false };
    const { chunks, view } = shown([{ type: "request_start" }, { ...complete, reason: "failed", error }]);
    expect(chunks).toEqual([]);
    expect(view.failure).toMatchObject(error);
  });

  it("is withdrawn where it is run again, and shown anew", () => {
    const restart = { type: "seam", epoch: 9, continuation: "restart" };
    const { chunks } = shown([thinking("one"), restart, thinking("two"), text("x"), complete]);
    expect(kinds(chunks)).toContain("reset-step");
    expect(written(chunks)).toEqual({ text: "x", reasoning: "two" });
  });

  it("says nothing of a call that a stop has cut off", () => {
    const cut = shown([call('{"a"', { name: "f", call_id: "c" }), { ...complete, reason: "cancelled" }], ["f"]);
    expect(kinds(cut.chunks)).toBe("start start-step tool-input-start tool-input-delta abort");
  });

  it("tells a call once its name is known, as one of the page's tools or a dynamic one", () => {
    const end = { ...complete, finish_reason: "tool_calls" };
    const entries = [call('{"a"'), call(": 1}", { name: "f", call_id: "c" }), end];
    const { chunks } = shown(entries, ["f"]);
    const named = { toolCallId: "c", toolName: "f" };
    expect(chunks.slice(2, 5)).toEqual([
      { type: "tool-input-start", ...named },
      { type: "tool-input-delta", toolCallId: "c", inputTextDelta: '{"a": 1}' },
      { type: "tool-input-available", ...named, input: { a: 1 } },
    ]);
    expect(shown(entries).chunks[2]).toEqual({ type: "tool-input-start", ...named, dynamic: true });
    expect(chunks.at(-1)).toMatchObject({ finishReason: "tool-calls" });
  });

  it("is the same message wherever its reader begins, and whatever was replaced meanwhile", () => {
    const piece = fc.string({ maxLength: 3 });
    const said = fc.array(fc.oneof(piece.map(text), piece.map(thinking)), { maxLength: 20 });
    const same = fc.property(said, fc.nat(), (pieces, seed) => {
      const chance = new Chance(seed);
      const { state } = shown([...pieces, complete]);
      const late = new Chunks({ message: "", tools: [], earlier: [] }, true);
      const half = shown(pieces.slice(0, chance.below(pieces.length + 1)));
      const { text: whole, thinking: thought } = state;
      expect(written(late.take(state))).toEqual({ text: whole, reasoning: thought });
      const place = { stream: STREAM, epoch: 9, upto: 99, status: "ended", end: state.end };
      const snapshot = { type: "snapshot", ...place, text: whole, thinking: thought, refusal: "", tool_calls: [] };
      const verdict = applyFrame(half.state, snapshot as unknown as Frame);
      const replaced = half.view.take(half.state, snapshot as unknown as Frame, verdict);
      expect(written([...half.chunks, ...replaced])).toEqual({ text: whole, reasoning: thought });
    });
    fc.assert(same, { numRuns: 300 });
  });
});

const user = (...parts: object[]): UiMessage => ({ id: "u", role: "user", parts: parts as UiMessage["parts"] });
const assistant = (...parts: object[]): UiMessage => ({ ...user(...parts), id: "a", role: "assistant" });
const tool = { type: "tool-weather", toolCallId: "c", state: "output-available", input: { city: "Oslo" }, output: 7 };

describe("what a page has said", () => {
  it("is told to a model as text and images", () => {
    const image = { type: "file", mediaType: "image/png", url: "data:image/png;base64,AAAA" };
    const linked = { type: "file", mediaType: "image/webp", url: "https://example.com/x" };
    expect(messagesOf([user({ type: "text", text: "look" })])).toEqual([{ role: "user", content: "look" }]);
    const [message] = messagesOf([user({ type: "text", text: "look" }, image, linked, { type: "data-x", data: 1 })]);
    expect(message?.content).toEqual([
      { type: "text", text: "look" },
      { type: "image", data: "AAAA", media_type: "image/png" },
      { type: "image", url: "https://example.com/x" },
    ]);
    const pdf = { type: "file", mediaType: "application/pdf", url: "data:application/pdf;base64,AAAA" };
    expect(() => messagesOf([user(pdf)])).toThrow("only images are");
  });

  it("is told with calls and their results, step by step, and without calls that have none", () => {
    const step = { type: "step-start" };
    const open = { ...tool, toolCallId: "d", state: "input-available" };
    const message = assistant(step, { type: "reasoning", text: "hm" }, tool, open, step, { type: "text", text: "7" });
    const said = messagesOf([message]);
    expect(said).toEqual([
      {
        role: "assistant",
        content: "",
        tool_calls: [{ call_id: "c", name: "weather", arguments: '{"city":"Oslo"}' }],
      },
      { role: "tool", call_id: "c", content: "7" },
      { role: "assistant", content: "7" },
    ]);
    expect(messagesOf([assistant(step, open)])).toEqual([]);
    const failed = { ...tool, state: "output-error", errorText: "no net" };
    const told = { role: "tool", call_id: "c", content: "no net", is_error: true };
    expect(messagesOf([assistant(failed)])[1]).toEqual(told);
    const denied = { ...tool, state: "output-denied", approval: { approved: false, reason: "not now" } };
    expect(messagesOf([assistant(denied)])[1]).toMatchObject({ content: "not now", is_error: true });
  });

  it("is continued in the assistant's message that stands last, or is named", () => {
    expect(continuedIn([user(), assistant(tool)], undefined)?.id).toBe("a");
    expect(continuedIn([assistant(tool), user({ type: "text", text: "x" })], undefined)).toBeNull();
    expect(continuedIn([assistant(tool), user({ type: "text", text: "x" })], "a")?.id).toBe("a");
    expect(continuedIn([user(), assistant()], undefined)).toBeNull();
  });

  it("is sent again as chunks, of which none asks for a call that has a result", () => {
    const message = assistant({ type: "step-start" }, { type: "text", text: "hi" }, tool, { type: "data-x", data: 1 });
    const chunks = chunksOf(message);
    const call = "tool-input-start tool-input-delta tool-output-available";
    expect(kinds(chunks)).toBe(`start-step text-start text-delta text-end ${call} data-x`);
    const { chunks: again } = shown([text("on")], [], chunks);
    expect(kinds(again)).toMatch(/^start start-step text-start .* data-x start-step text-start text-delta$/);
  });

  it("may name tools in a list, or by name", () => {
    const schema = { type: "object" };
    const named = [{ name: "f", description: "d", parameters: schema }];
    expect(toolsOf({ f: { description: "d", inputSchema: schema } })).toEqual(named);
    expect(toolsOf([{ name: "f", description: "d", parameters: schema }])).toEqual(named);
    expect(toolsOf({ g: {} })).toEqual([{ name: "g", parameters: {} }]);
  });
});
