// The AI SDK's `useChat` over this client's connection: a transport for its chats.
//
// An answer is a response stream, so it outlives the page's connection by itself: nothing has to be resumed after a
// lost network.  After a reload it is found by a note, which says what stream a chat's answer is, until the page has
// been given its end.
//
//   sendMessages ----------> generate, and a note     end given to the page, or the fence of a stop: the note goes
//   reconnectToStream -----> the note's stream, from its start; null where there is no note
//   the signal aborts -----> cancel (or only no more reading), unless the page has come back to it at once
//
// A page that is drawn twice, as React does while it is developed, aborts what it resumes and resumes it again within
// one turn: that is no stop.

import { Chunks } from "./ai_chunks.ts";
import type { ChunksOptions } from "./ai_chunks.ts";
import { chunksOf, continuedIn, messagesOf, toolsOf } from "./ai_messages.ts";
import type { UiTools } from "./ai_messages.ts";
import type { UiChunk, UiMessage } from "./ai_types.ts";
import type { Client } from "./client.ts";
import { CommandError } from "./errors.ts";
import type { Fence, Params } from "./frames.ts";
import type { GenerateOptions, KeyValues, StateChange } from "./options.ts";
import { randomId } from "./outbox.ts";
import { loaded, stored } from "./storage.ts";
import type { Stream } from "./stream_handle.ts";

export type { UiTool, UiTools } from "./ai_messages.ts";
export type { UiChunk, UiFinish, UiMessage, UiMetadata } from "./ai_types.ts";

/** What an answer is asked for with; the `body` of one request may say otherwise. */
export interface ChatRequest {
  /** `provider/name` */
  model: string;
  /** What the model is told beforehand. */
  system?: string;
  params?: Params;
  tools?: UiTools;
  budget?: NonNullable<GenerateOptions["budget"]>;
}

export interface ChatTransportOptions extends ChatRequest {
  client: Client;
  /** What a page's `stop()` does: end the answer for everybody, or only read no more of it. */
  onAbort?: "cancel" | "leave";
  /** Where the notes are kept; by default the tab's `sessionStorage`, where there is one. */
  storage?: KeyValues | null;
}

interface SendOptions {
  trigger: "submit-message" | "regenerate-message";
  chatId: string;
  messageId: string | undefined;
  messages: readonly UiMessage[];
  abortSignal: AbortSignal | undefined;
  body?: object | undefined;
}

interface ReconnectOptions {
  chatId: string;
  abortSignal?: AbortSignal | undefined;
}

/** Which stream a chat's answer is; `stream` is null until it is known, and then `request_id` finds it. */
interface Note extends ChunksOptions {
  request_id: string;
  model: string;
  stream: string | null;
}

const NOTE_KEY = "everstream.chat.1.";
const CLOSE_UNAUTHORIZED = 4501;
const UNKNOWN = new Set(["stream.unknown", "request.invalid", "request.not_found"]);

/** A `ChatTransport` of `ai`. */
export class EverstreamChatTransport {
  /** Who comes back is given the whole answer. */
  readonly resumeStreamIsReplay = true;
  #client: Client;
  #request: ChatRequest;
  #cancels: boolean;
  #storage: KeyValues | null;
  #notes = new Map<string, Note>();
  #streams = new Map<string, Stream>(); // by chat
  #readers = new WeakMap<Stream, symbol>(); // the newest of each

  constructor({ client, onAbort = "cancel", storage, ...request }: ChatTransportOptions) {
    this.#client = client;
    this.#request = request;
    this.#cancels = onAbort === "cancel";
    this.#storage = storage === undefined ? tabStorage() : storage;
  }

  async sendMessages(options: SendOptions): Promise<ReadableStream<UiChunk>> {
    const { chatId, messages, messageId, trigger, abortSignal, body } = options;
    abortSignal?.throwIfAborted();
    const request = { ...this.#request, ...body };
    const continued = trigger === "submit-message" ? continuedIn(messages, messageId) : null;
    const asked = askedOf(request, messages);
    const note: Note = {
      request_id: randomId(),
      model: request.model,
      stream: null,
      message: continued?.id ?? "",
      tools: asked.params?.tools?.map(({ name }) => name) ?? [],
      earlier: continued === null ? [] : chunksOf(continued),
    };
    this.#keep(chatId, note);
    const stream = this.#open().generate({ ...asked, request_id: note.request_id });
    return this.#read(chatId, note, stream, new Chunks(note, false), abortSignal);
  }

  async reconnectToStream({ chatId, abortSignal }: ReconnectOptions): Promise<ReadableStream<UiChunk> | null> {
    const note = this.#noteOf(chatId);
    if (note === null) return null;
    const stream = this.#streams.get(chatId) ?? this.#found(note);
    const chunks = this.#read(chatId, note, stream, new Chunks(note, true), abortSignal);
    const failure = await begun(stream, abortSignal).catch((aborted: unknown) => aborted);
    if (failure === null) return chunks;
    await chunks.cancel();
    if (!(failure instanceof CommandError) || !UNKNOWN.has(failure.code)) throw failure;
    this.#forget(chatId, note);
    return null;
  }

  /** Stop a chat's answer: no entry behind the fence's `offset` exists, or will.  null: none is known here. */
  async stop(chatId: string): Promise<Fence | null> {
    const note = this.#noteOf(chatId);
    const stream = this.#streams.get(chatId) ?? (note && this.#found(note));
    return stream ? stream.cancel() : null;
  }

  #open(): Client {
    if (this.#client.state === "closed" || this.#client.state === "refused") this.#client.open();
    return this.#client;
  }

  #found({ stream, request_id, model }: Note): Stream {
    if (stream !== null) return this.#open().subscribe(stream);
    return this.#open().generate({ request_id, model, messages: [] }); // what was asked once is answered as it was then
  }

  #read(chat: string, note: Note, stream: Stream, chunks: Chunks, signal?: AbortSignal): ReadableStream<UiChunk> {
    const reader = Symbol(chat);
    this.#readers.set(stream, reader);
    this.#streams.set(chat, stream);
    const aborted = (): void => {
      if (this.#cancels) setTimeout(() => this.#readers.get(stream) === reader && this.#cancel(chat, note, stream));
    };
    signal?.addEventListener("abort", aborted, { once: true });
    return readable(stream, chunks, this.#client, {
      known: (id) => note.stream === null && this.#keep(chat, Object.assign(note, { stream: id })),
      given: () => {
        signal?.removeEventListener("abort", aborted);
        this.#forget(chat, note);
      },
    });
  }

  #cancel(chat: string, note: Note, stream: Stream): void {
    const forget = () => this.#forget(chat, note);
    stream.cancel().then(forget, forget);
  }

  // ------------------------------------------------------------------ notes

  #noteOf(chat: string): Note | null {
    return this.#notes.get(chat) ?? (loaded(this.#storage, NOTE_KEY + chat) as Note | null);
  }

  #keep(chat: string, note: Note): void {
    this.#notes.set(chat, note);
    stored(this.#storage, NOTE_KEY + chat, note);
  }

  /** The chat's answer has been given, or is none; a later one has a note of its own. */
  #forget(chat: string, { request_id }: Note): void {
    if (this.#noteOf(chat)?.request_id !== request_id) return;
    this.#notes.delete(chat);
    this.#streams.delete(chat);
    stored(this.#storage, NOTE_KEY + chat, null);
  }
}

function askedOf(request: ChatRequest, messages: readonly UiMessage[]): GenerateOptions & { params: Params } {
  const { model, system, tools, budget } = request;
  const params: Params = { ...request.params };
  if (system) params.system = system;
  if (tools) params.tools = toolsOf(tools);
  return { model, messages: messagesOf(messages), params, ...(budget && { budget }) };
}

/** The tab's storage.  It may be forbidden, and on a server there is none. */
function tabStorage(): KeyValues | null {
  try {
    return globalThis.sessionStorage ?? null;
  } catch {
    return null;
  }
}

/** Until something of the stream is held: what it cannot be read for, or null.  Rejects where the signal aborts. */
async function begun(stream: Stream, signal: AbortSignal | undefined): Promise<CommandError | null> {
  signal?.throwIfAborted();
  if (stream.state.offset > 0) return null;
  return new Promise((resolve, reject) => {
    const stops = [
      stream.on("change", () => over(() => resolve(null))),
      stream.on("error", (error) => over(() => resolve(error))),
    ];
    const aborted = (): void => over(() => reject(signal?.reason));
    const over = (settle: () => void): void => {
      for (const stop of stops) stop();
      signal?.removeEventListener("abort", aborted);
      settle();
    };
    signal?.addEventListener("abort", aborted);
  });
}

interface Told {
  /** The stream's id is known. */
  known(id: string): void;
  /** The page has been given the end. */
  given(): void;
}

/** A stream's chunks, from what is held of it on.  Who reads slowly is given larger pieces. */
function readable(stream: Stream, chunks: Chunks, client: Client, told: Told): ReadableStream<UiChunk> {
  const queue: UiChunk[] = [];
  let failure: CommandError | null = null;
  let wake = (): void => {};
  const fail = (error: CommandError): void => {
    failure = error;
    wake();
  };
  const add = (more: UiChunk[]): void => {
    if (stream.id !== null) told.known(stream.id);
    for (const chunk of more) if (!joined(queue.at(-1), chunk)) queue.push({ ...chunk });
    wake();
  };
  const stops = [
    stream.on("change", ({ frame, verdict }) => add(chunks.take(stream.state, frame, verdict))),
    stream.on("error", fail),
    client.on("state", (change) => {
      if (change.state === "refused" && stream.id === null) fail(withdrawn(stream, change));
    }),
  ];
  const stop = (): void => stops.forEach((each) => each());
  if (stream.state.offset > 0) add(chunks.take(stream.state));
  return new ReadableStream<UiChunk>(
    {
      async pull(controller) {
        while (queue.length === 0 && failure === null && !stream.ended) {
          await new Promise<void>((woken) => (wake = woken));
        }
        const chunk = queue.shift();
        if (chunk !== undefined) return controller.enqueue(chunk);
        stop();
        told.given();
        failure ??= chunks.failure;
        if (failure === null) controller.close();
        else controller.error(failure);
      },
      cancel() {
        stop();
        wake();
      },
    },
    { highWaterMark: 0 },
  );
}

/** What was asked of a server that lets nobody in is not to be asked later, behind the person's back. */
function withdrawn(stream: Stream, { code, reason }: StateChange): CommandError {
  stream.cancel().catch(() => {});
  const refused = code === CLOSE_UNAUTHORIZED ? "auth.denied" : "connection.refused";
  return new CommandError({ code: refused, message: reason || "The server refuses this connection." });
}

/** Put a piece to the last one that nobody has read yet, where it belongs to the same part. */
function joined(last: UiChunk | undefined, next: UiChunk): boolean {
  if (last?.type === "tool-input-delta" && next.type === last.type && next.toolCallId === last.toolCallId) {
    last.inputTextDelta += next.inputTextDelta;
    return true;
  }
  const isText = last?.type === "text-delta" || last?.type === "reasoning-delta";
  if (!isText || next.type !== last.type || !("delta" in next) || next.id !== last.id) return false;
  last.delta += next.delta;
  return true;
}
