// The AI SDK's transport over sockets that a test opens and drops; with the SDK itself, tests/web/ai_sdk.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { EverstreamChatTransport } from "../src/ai.ts";
import type { ChatTransportOptions } from "../src/ai.ts";
import type { UiChunk, UiMessage } from "../src/ai_types.ts";
import { Scene, end, pass, settled, storage, text } from "./server.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const ID = "r_1";
const ACCEPTED = { type: "accepted", stream: ID, epoch: 1 };
const MESSAGES: UiMessage[] = [{ id: "u", role: "user", parts: [{ type: "text", text: "hi" } as { type: string }] }];

class Page {
  readonly scene = new Scene();
  readonly tab;
  readonly transport;
  readonly stopping = new AbortController();
  readonly chunks: UiChunk[] = [];
  over: Promise<void> | null = null;

  constructor(tab = storage(), options: Partial<ChatTransportOptions> = {}) {
    this.tab = tab;
    this.transport = new EverstreamChatTransport({
      client: this.scene.client,
      model: "scripted/count",
      storage: tab,
      ...options,
    });
  }

  async send(): Promise<void> {
    const asked = { chatId: "c", messageId: undefined, messages: MESSAGES, trigger: "submit-message" } as const;
    this.read(await this.transport.sendMessages({ ...asked, abortSignal: this.stopping.signal }));
    await settled();
  }

  read(stream: ReadableStream<UiChunk>): void {
    this.over = (async () => {
      for await (const chunk of stream as unknown as AsyncIterable<UiChunk>) this.chunks.push(chunk);
    })();
    this.over.catch(() => {});
  }

  get text(): string {
    return this.chunks.map((chunk) => (chunk.type === "text-delta" ? chunk.delta : "")).join("");
  }
}

/** A page whose question was accepted, and that has read some of the answer. */
async function answered(page = new Page()): Promise<Page> {
  await page.send();
  page.scene.welcome();
  await settled();
  await page.scene.answer("generate", ACCEPTED);
  page.scene.socket.say(text(ID, 0, "1 2"));
  await settled();
  expect(page.text).toBe("1 2");
  return page;
}

describe("a question", () => {
  it("connects a client that is closed, and is answered once there is a connection", async () => {
    const page = new Page();
    await page.send();
    expect(page.scene.client.state).toBe("connecting");
    page.scene.welcome();
    await settled();
    expect(page.scene.commands).toMatchObject([{ type: "generate", messages: [{ role: "user", content: "hi" }] }]);
  });

  it("fails where the server lets nobody in, and is not asked behind the person's back", async () => {
    const page = new Page();
    await page.send();
    page.scene.socket.drop(4501, "who are you?");
    await expect(page.over).rejects.toMatchObject({ code: "auth.denied", message: "who are you?" });
    expect(page.tab.held.size).toBe(0);
    page.scene.opened();
    await settled();
    await page.scene.answer("generate", ACCEPTED);
    expect(page.scene.commands.at(-1)).toEqual({ type: "cancel", stream: ID });
  });
});

describe("an answer", () => {
  it("goes on over another connection, and says nothing of it", async () => {
    const page = await answered();
    page.scene.socket.drop();
    await pass(1);
    page.scene.socket.onopen?.();
    expect(page.scene.socket.sent[0]).toMatchObject({ resume: [{ stream: ID, epoch: 1, offset: 3 }] });
    const place = { epoch: 1, offset: 3, tail: 3, status: "open" };
    page.scene.welcome().say({ type: "subscribed", stream: ID, ...place });
    page.scene.socket.say(text(ID, 3, " 3"));
    page.scene.socket.say(end(ID, 5));
    await page.over;
    expect(page.text).toBe("1 2 3");
    expect(page.chunks.filter(({ type }) => type === "start" || type === "reset-step")).toHaveLength(1);
  });

  it("that comes faster than it is read comes in larger pieces", async () => {
    const page = await answered();
    for (let at = 3; at < 100; at += 1) page.scene.socket.say(text(ID, at, "x"));
    page.scene.socket.say(end(ID, 100));
    await page.over;
    expect(page.text).toBe(`1 2${"x".repeat(97)}`);
    expect(page.chunks.length).toBeLessThan(10);
  });

  it("is noted until the page has been given its end", async () => {
    const page = await answered();
    expect([...page.tab.held.keys()]).toEqual(["everstream.chat.1.c"]);
    page.scene.socket.say(end(ID, 3));
    await page.over;
    expect(page.tab.held.size).toBe(0);
    expect(await page.transport.reconnectToStream({ chatId: "c" })).toBe(null);
  });

  it("that the server does not know any more is none, after a reload", async () => {
    const { tab } = await answered();
    const page = new Page(tab);
    const resumed = page.transport.reconnectToStream({ chatId: "c" });
    const unknown = { code: "stream.unknown", message: "gone", retryable: false };
    page.scene.welcome().say({ type: "error", stream: ID, ...unknown });
    expect(await resumed).toBe(null);
    expect(tab.held.size).toBe(0);
  });
});

describe("a stop", () => {
  it("ends the answer, and its fence the note", async () => {
    const page = await answered();
    page.stopping.abort();
    await pass(1);
    expect(page.scene.commands.at(-1)).toEqual({ type: "cancel", stream: ID });
    await page.scene.answer("cancel", { type: "cancelled", streams: [{ stream: ID, offset: 4 }] });
    expect(page.tab.held.size).toBe(0);
  });

  it("that only leaves says nothing to the server, and the answer is found again", async () => {
    const page = await answered(new Page(storage(), { onAbort: "leave" }));
    page.stopping.abort();
    await pass(1);
    expect(page.scene.commands.at(-1)).toMatchObject({ type: "generate" });
    page.chunks.length = 0;
    const resumed = await page.transport.reconnectToStream({ chatId: "c" });
    page.read(resumed as ReadableStream<UiChunk>);
    page.scene.socket.say(end(ID, 3));
    await page.over;
    expect(page.text).toBe("1 2");
  });

  it("is none where the page comes back at once: it was only drawn twice", async () => {
    const { tab } = await answered();
    const page = new Page(tab);
    const first = new AbortController();
    const aborted = page.transport.reconnectToStream({ chatId: "c", abortSignal: first.signal });
    first.abort();
    const resumed = page.transport.reconnectToStream({ chatId: "c" });
    await expect(aborted).rejects.toMatchObject({ name: "AbortError" });
    page.scene.welcome().say({ type: "subscribed", stream: ID, epoch: 1, offset: 0, tail: 3, status: "open" });
    await pass(1);
    expect(await resumed).not.toBe(null);
    expect(page.scene.commands).toEqual([]);
  });
});
