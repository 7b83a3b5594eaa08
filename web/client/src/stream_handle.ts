// One response stream as a program reads it, whoever asked for it.
//
// What is held is the reducer's state (stream.ts), and everything else is a view of it: iterators are cursors, the
// result is its end.  It is read on at every welcome from where it stands.
//
//   generate:  in the outbox --accepted--> read from its start        subscribe:  read from a place
//   ended: the result is there        failed: the server does not know the stream, or refuses the request
//
// A session that is open on the same client brings its streams along.  Such a stream is read once, by the session, and
// this one looks at the same state.

import { Asking, againInMs } from "./asking.ts";
import { deferred } from "./deferred.ts";
import type { Deferred } from "./deferred.ts";
import { Emitter } from "./emitter.ts";
import { CommandError, LOST, TextWithdrawn } from "./errors.ts";
import type {
  Accepted,
  Cancelled,
  Cost,
  ErrorInfo,
  Fence,
  Frame,
  Metrics,
  Resume,
  StreamEnd,
  Usage,
} from "./frames.ts";
import type { StreamHost, StreamReader, Taken } from "./host.ts";
import type { Position, Request } from "./options.ts";
import type { Sender } from "./outbox.ts";
import type { Part } from "./parts.ts";
import { Cursor } from "./parts.ts";
import type { HeldCall, StreamState } from "./stream.ts";
import { Verdict, applyFrame, newStream, position, startOver } from "./stream.ts";

export interface Result {
  stream: string;
  text: string;
  thinking: string;
  refusal: string;
  tool_calls: HeldCall[];
  reason: StreamEnd["reason"];
  finish_reason: StreamEnd["finish_reason"];
  usage: Usage;
  cost: Cost | null;
  metrics: Metrics;
  error: ErrorInfo | null;
  warnings: string[];
  /** The whole last entry. */
  end: StreamEnd;
}

export interface StreamEvents {
  change: { frame: Frame; verdict: Verdict };
  end: StreamEnd;
  error: CommandError;
}

export class Stream implements AsyncIterable<Part> {
  #host: StreamHost;
  #asking: Asking;
  #reader: StreamReader;
  #events = new Emitter<StreamEvents>();
  #state: StreamState = newStream("");
  #states = 0; // how many there were before this one
  #before = 0; // units of text before what is held
  #isFollowing = false; // a session reads it
  #isPartial = false; // reading began in the middle
  #whole: StreamState | null = null; // read for the result of a partial one
  #cancelling: Deferred<Fence> | null = null;
  #result = deferred<Result>();
  #failure: CommandError | null = null;
  #changed = deferred<void>();

  /** By `Client.generate` and `Client.subscribe` only. */
  constructor(host: StreamHost, begin: Request | Position) {
    this.#host = host;
    this.#asking = new Asking(host.wire);
    this.#reader = {
      stream: this,
      resume: () => this.#resume(),
      welcomed: () => this.#welcomed(),
      take: (frame) => this.#take(frame),
      follow: (taken, frame) => this.#follow(taken, frame),
      alone: () => this.#alone(),
    };
    if ("request_id" in begin) this.#generate(begin);
    else this.#subscribe(begin);
  }

  /** null until it is accepted. */
  get id(): string | null {
    return this.#state.id || null;
  }

  /** What is held: to be read, and left as it is. */
  get state(): StreamState {
    return this.#state;
  }

  get text(): string {
    return this.#state.text;
  }

  get thinking(): string {
    return this.#state.thinking;
  }

  get ended(): boolean {
    return this.#state.end !== null;
  }

  /** Where it can be read on from, on another day. */
  get position(): Position | null {
    if (this.id === null) return null;
    return { ...position(this.#state), characters: this.#before + this.#state.text.length };
  }

  /** At the end, whole, wherever reading began.  Rejects only where the stream cannot be read any more. */
  get result(): Promise<Result> {
    return this.#result.promise;
  }

  on<K extends keyof StreamEvents>(event: K, listener: (value: StreamEvents[K]) => void): () => void {
    return this.#events.on(event, listener);
  }

  /** From the start of what is held; who is slow gets larger parts.  Leaving the loop stops nothing. */
  async *[Symbol.asyncIterator](): AsyncIterator<Part> {
    const cursor = new Cursor();
    for (;;) {
      const changed = this.#changed.promise;
      const parts = cursor.take(this.#state, this.#revision);
      yield* parts;
      if (parts.at(-1)?.type === "end") return;
      await this.#orFailure(changed);
    }
  }

  /**
   * The answer's text.  A snapshot is only a larger piece of it.  Throws TextWithdrawn where what was given is void:
   * call it again for what stands in its place.
   */
  async *textDeltas(): AsyncGenerator<string, void, undefined> {
    let given = "";
    let missing = this.#before; // of text that was read on another day
    let revision = this.#revision;
    for (;;) {
      const changed = this.#changed.promise;
      const { text, end } = this.#state;
      if (revision !== this.#revision) {
        revision = this.#revision;
        const fits = missing > 0 ? text.length >= missing + given.length : text.startsWith(given);
        if (!fits) throw new TextWithdrawn(text);
        given = text.slice(0, missing + given.length);
        missing = 0;
      }
      const piece = text.slice(given.length);
      given = text;
      if (piece !== "") yield piece;
      else if (end !== null) return;
      else await this.#orFailure(changed);
    }
  }

  /** Stop it.  The fence: no entry behind `offset` exists, or will.  Remembered while there is no connection. */
  cancel(): Promise<Fence> {
    if (this.#failure !== null) return Promise.reject(this.#failure);
    this.#cancelling ??= deferred();
    const { promise } = this.#cancelling;
    if (this.ended) this.#cancelled({ stream: this.#state.id, offset: this.#state.offset });
    else this.#cancel();
    return promise;
  }

  // ------------------------------------------------------------------ how it begins

  #generate(request: Request): void {
    const { outbox } = this.#host;
    const sender: Sender = {
      accepted: (accepted, reply) => {
        outbox.drop(accepted);
        this.#accepted(reply);
      },
      refused: (refused, error) => {
        outbox.drop(refused);
        this.#fail(error);
      },
    };
    const kept = outbox.adopt(sender, ({ request_id }) => request_id === request.request_id);
    if (kept.length === 0) outbox.post(request, sender); // else a reload has left it behind
  }

  #accepted({ stream, epoch }: Accepted): void {
    // A repeat is read from its start, also where it was being read already.
    const held = this.#host.heldByStream(stream) ?? newStream(stream);
    startOver(held, epoch);
    if (held !== this.#state) this.#hold(held);
    this.#host.joins(stream, this.#reader);
    if (this.#cancelling !== null) this.#cancel();
  }

  #subscribe({ stream, epoch, offset, characters }: Position): void {
    const held = this.#host.heldBySession(stream);
    this.#host.joins(stream, this.#reader);
    if (held !== null) {
      this.#isFollowing = true;
      this.#hold(held);
      if (held.end !== null) this.#end();
      return;
    }
    this.#hold({ ...newStream(stream, epoch ?? null), offset: offset ?? 0 });
    this.#before = offset ? (characters ?? 0) : 0;
    this.#isPartial = this.#state.offset > 0;
    this.#ask();
  }

  #hold(state: StreamState): void {
    this.#state = state;
    this.#states += 1;
  }

  /** Another one where what was held before is void. */
  get #revision(): string {
    return `${this.#states}.${this.#state.revision}`;
  }

  // ------------------------------------------------------------------ how it goes on

  /** What is being read: after the end, all of it where reading began in the middle. */
  get #place(): StreamState {
    return this.#whole ?? this.#state;
  }

  #resume(): Resume[] {
    if (this.#host.heldBySession(this.#state.id) !== null) return [];
    this.#asking.clear();
    this.#place.waiting = true;
    return [position(this.#place)];
  }

  #welcomed(): void {
    const isRead = this.#place.waiting || this.#host.heldBySession(this.#state.id) !== null;
    if (!isRead) this.#ask(); // it began after the hello
    if (this.#cancelling !== null) this.#cancel();
  }

  #ask(): void {
    const place = this.#place;
    const command = { type: "subscribe" as const, ...position(place) };
    this.#asking.ask(place, command, (reply) => this.#take(reply), (error) => this.#unreadable(error));
  }

  #take(frame: Frame): Taken | null {
    const place = this.#place;
    if (frame.type === "error") {
      this.#unreadable(new CommandError(frame));
      return null;
    }
    if (this.#asking.has(place.id)) return null; // an answer on its way says where to go on
    const verdict = applyFrame(place, frame);
    if (verdict === Verdict.HOLE) this.#ask();
    if (verdict === Verdict.REPLACED) this.#isPartial = false;
    this.#grown(frame, verdict);
    return place === this.#state ? { state: place, verdict } : null;
  }

  #follow({ state, verdict }: Taken, frame: Frame): void {
    this.#isFollowing = true;
    if (state !== this.#state) {
      this.#hold(state);
      this.#before = 0;
      this.#isPartial = false;
    }
    this.#grown(frame, verdict);
  }

  #alone(): void {
    if (!this.#isFollowing || this.ended || this.#host.heldBySession(this.#state.id) !== null) return;
    this.#isFollowing = false;
    this.#ask();
  }

  #grown(frame: Frame, verdict: Verdict): void {
    if (this.#place !== this.#whole) this.#events.emit("change", { frame, verdict });
    if (this.#place.end !== null) this.#end();
    if (verdict === Verdict.APPLIED || verdict === Verdict.REPLACED) this.#wakeReaders();
  }

  #wakeReaders(): void {
    const { resolve } = this.#changed;
    this.#changed = deferred();
    resolve();
  }

  async #orFailure(changed: Promise<void>): Promise<void> {
    if (this.#failure !== null) throw this.#failure;
    await changed;
    if (this.#failure !== null) throw this.#failure;
  }

  // ------------------------------------------------------------------ how it ends

  #end(): void {
    const { id, offset, end } = this.#state;
    if (end === null) return;
    if (this.#whole === null) {
      this.#cancelled({ stream: id, offset });
      this.#events.emit("end", end);
      this.#wakeReaders();
    }
    if (this.#isPartial && this.#whole === null) {
      this.#whole = newStream(id);
      this.#ask();
      return;
    }
    this.#host.leaves(id, this.#reader);
    this.#result.resolve(resultOf(this.#place, end));
  }

  #unreadable(error: CommandError): void {
    if (!error.retryable) this.#fail(error);
    else setTimeout(() => this.#failure === null && this.#ask(), againInMs(error));
  }

  #fail(error: CommandError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#host.leaves(this.#state.id, this.#reader);
    this.#result.reject(error);
    this.#cancelling?.reject(error);
    this.#events.emit("error", error);
    this.#wakeReaders();
  }

  #cancel(): void {
    const { wire } = this.#host;
    if (this.id === null || wire.state !== "open") return; // once it is accepted, and at the next welcome
    wire.ask({ type: "cancel", stream: this.#state.id }, (reply, error) => {
      const fence = (reply as Cancelled | null)?.streams[0];
      if (fence !== undefined) this.#cancelled(fence);
      else if (error?.code === LOST) return;
      else if (error?.retryable) setTimeout(() => this.#cancelling && this.#cancel(), againInMs(error));
      else {
        this.#cancelling?.reject(error);
        this.#cancelling = null;
      }
    });
  }

  #cancelled(fence: Fence): void {
    this.#cancelling?.resolve(fence);
    this.#cancelling = null;
  }
}

function resultOf({ id, text, thinking, refusal, tool_calls }: StreamState, end: StreamEnd): Result {
  const { reason, finish_reason, usage, cost, metrics, error, warnings } = end;
  const said = { stream: id, text, thinking, refusal, tool_calls };
  return { ...said, reason, finish_reason, usage, cost, metrics, error, warnings, end };
}
