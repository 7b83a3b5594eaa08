// A client of one server: one connection, and all streams and sessions that are read over it.
//
//   Stream, Session --commands--> Wire (wire.ts) --carrier: websocket.ts or http.ts--> server
//         ^                         |
//         `---- frames, by what ----'  every hello names the places of all of them; every welcome takes up the rest
//               they are about
//
// A stream that an open session brings along is read by the session; a `Stream` of the same id looks at its state.

import type { Carry } from "./carrier.ts";
import { Emitter } from "./emitter.ts";
import { CLOSED, CommandError, LOST } from "./errors.ts";
import type { Command, Frame, Model, ReplyTo, Resume, SessionsListed, Welcome } from "./frames.ts";
import type { SessionHost, SessionReader, StreamHost, StreamReader, Taken } from "./host.ts";
import { overHttp } from "./http.ts";
import type {
  ClientEvents,
  ClientOptions,
  ConnectionState,
  GenerateOptions,
  Position,
  SessionOptions,
  StateChange,
  Transport,
} from "./options.ts";
import { Outbox, newRequest, randomId } from "./outbox.ts";
import { onPageEvents } from "./page_events.ts";
import { Routes } from "./routes.ts";
import { Session } from "./session_handle.ts";
import type { SavedSession } from "./session_handle.ts";
import type { StreamState } from "./stream.ts";
import { Stream } from "./stream_handle.ts";
import { Token } from "./token.ts";
import { JSON_FRAMES, addressBeside, msgpackFrames, overWebSocket } from "./websocket.ts";
import type { Encoding } from "./websocket.ts";
import { Wire } from "./wire.ts";

const NAME = "everstream-js/1";

export class Client {
  #events = new Emitter<ClientEvents>();
  #wire: Wire;
  #outbox: Outbox;
  #host: StreamHost & SessionHost;
  #streams = new Map<string, StreamReader[]>(); // the first one reads, the others look on
  #sessions = new Set<SessionReader>();
  #waiting = new Set<() => void>(); // for the next change of state
  #stopListening = () => {};
  #encoding: "json" | "msgpack" = "json";

  constructor(options: ClientOptions = {}) {
    const token = new Token(options.token);
    let encoding = JSON_FRAMES;
    const carriers = carriersOf(options, () => encoding, token);
    const { transport = "auto" } = options;
    const mode = transport === "auto" && carriers.websocket === null ? "http" : transport;
    this.#wire = new Wire({
      carriers,
      routes: new Routes(mode),
      token,
      ready: options.encoding === "msgpack" ? this.#packed((frames) => (encoding = frames)) : null,
      name: options.name ?? NAME,
      random: options.random ?? Math.random,
      resume: () => this.#resume(),
      onFrame: (frame) => this.#onFrame(frame),
      onState: (change) => this.#onState(change),
      onToken: (why) => this.#events.emit("token", { why }),
      seen: () => (this.#events.has("frame") ? (seen) => this.#events.emit("frame", seen) : null),
    });
    const storage = options.storage ?? null;
    this.#outbox = new Outbox(this.#wire, storage);
    this.#host = {
      wire: this.#wire,
      outbox: this.#outbox,
      storage,
      joins: (id, reader) => this.#joins(id, reader),
      leaves: (id, reader) => this.#leaves(id, reader),
      heldBySession: (id) => this.#heldBySession(id),
      heldByStream: (id) => this.#streams.get(id)?.[0]?.stream.state ?? null,
      opens: (reader) => void this.#sessions.add(reader),
      replaced: () => this.#alone(),
      closes: (reader) => {
        this.#sessions.delete(reader);
        this.#alone();
      },
    };
  }

  /** Load what writes MessagePack. */
  async #packed(use: (frames: Encoding) => void): Promise<void> {
    const frames = await msgpackFrames();
    use(frames);
    if (frames !== JSON_FRAMES) this.#encoding = "msgpack";
  }

  // ------------------------------------------------------------------ the connection

  get state(): ConnectionState {
    return this.#wire.state;
  }

  /** What carries the connection that there is, or that is being made. */
  get transport(): Transport | null {
    return this.#wire.transport;
  }

  /** What the server said to this connection, or to the last one. */
  get welcome(): Welcome | null {
    return this.#wire.welcome;
  }

  on<K extends keyof ClientEvents>(event: K, listener: (value: ClientEvents[K]) => void): () => void {
    return this.#events.on(event, listener);
  }

  /** Connect, and stay connected until `close()`.  Also at once instead of later, and after a refusal. */
  open(): void {
    this.#stopListening();
    this.#stopListening = onPageEvents(() => this.#wire.wake(), () => this.#wire.probe());
    this.#wire.open();
  }

  /** End the connection, and no stream: what was being read goes on with the next `open()`. */
  close(): void {
    this.#stopListening();
    this.#wire.close();
  }

  /** Lose the connection, as a dead network would, and come back: for trying how a program takes it. */
  drop(): void {
    this.#wire.drop();
  }

  /** How frames are written. */
  get encoding(): "json" | "msgpack" {
    return this.#encoding;
  }

  /** Look at once whether the connection lives, or connect at once.  Browsers say when; other programs may. */
  wake(): void {
    this.#wire.wake();
  }

  /** Show a new token, in band where there is a connection.  Rejects with CommandError where it is refused. */
  renew(token: string): Promise<void> {
    return this.#wire.renew(token);
  }

  /** Give a command; the promise is its reply.  Rejects with CommandError ("connection.lost": nobody knows). */
  request<C extends Command>(command: C): Promise<ReplyTo<C>> {
    return this.#wire.request(command);
  }

  /** Give a command without wanting its reply.  False where nothing was sent. */
  send(command: Command): boolean {
    return this.#wire.send(command);
  }

  // ------------------------------------------------------------------ streams

  /** Ask a model, at once or with the next connection. */
  generate(options: GenerateOptions): Stream {
    const { messages } = options;
    const history = typeof messages === "string" ? [{ role: "user" as const, content: messages }] : messages;
    return new Stream(this.#host, newRequest({ ...options, messages: history, session: null }));
  }

  /** Read a stream from its start, or from a place. */
  subscribe(place: string | Position): Stream {
    const from = typeof place === "string" ? { stream: place } : place;
    return this.#streams.get(from.stream)?.[0]?.stream ?? new Stream(this.#host, from);
  }

  async models(): Promise<Model[]> {
    return (await this.#repeated({ type: "models" })).models;
  }

  // ------------------------------------------------------------------ sessions

  /** The session that was last used first; `next` is the `before` of the next page. */
  sessions(options: { limit?: number; before?: string } = {}): Promise<Pick<SessionsListed, "sessions" | "next">> {
    return this.#repeated({ type: "session.list", ...options });
  }

  async createSession(options: SessionOptions = {}): Promise<Session> {
    const made = await this.#repeated({ type: "session.create", request_id: randomId(), ...options });
    return this.session(made.session);
  }

  /** Open a session, now and at every welcome; null: one that its first message makes. */
  session(id: string | null, saved?: SavedSession): Session {
    for (const { session } of this.#sessions) if (id !== null && session.id === id) return session;
    return new Session(this.#host, id, saved);
  }

  /** End all that runs in it, and erase it, for everybody. */
  async deleteSession(id: string): Promise<void> {
    await this.#wire.request({ type: "session.delete", session: id });
  }

  // ------------------------------------------------------------------ what comes

  get #readers(): (SessionReader | StreamReader)[] {
    return [...this.#sessions, ...[...this.#streams.values()].flat()];
  }

  #resume(): Resume[] {
    const places = this.#readers.flatMap((reader) => reader.resume());
    return [...new Map(places.map((place) => [place.stream, place])).values()];
  }

  #joins(id: string, reader: StreamReader): void {
    const readers = this.#streams.get(id) ?? [];
    if (!readers.includes(reader)) this.#streams.set(id, [...readers, reader]);
  }

  #leaves(id: string, reader: StreamReader): void {
    const left = (this.#streams.get(id) ?? []).filter((other) => other !== reader);
    if (left.length > 0) this.#streams.set(id, left);
    else this.#streams.delete(id);
  }

  #onState(change: StateChange): void {
    if (change.state === "open") {
      for (const reader of this.#readers) reader.welcomed();
      this.#outbox.welcomed();
    }
    this.#events.emit("state", change);
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const changed of waiting) changed();
  }

  #onFrame(frame: Frame): void {
    const { stream, session } = frame as { stream?: string | null; session?: string | null };
    if (frame.type === "error" && !stream && !session) {
      this.#events.emit("error", new CommandError(frame));
      return;
    }
    const readers = (stream ? this.#streams.get(stream) : undefined) ?? [];
    let taken: Taken | null = null;
    for (const open of [...this.#sessions]) taken = open.take(frame) ?? taken;
    const [first, ...others] = readers;
    if (taken !== null) first?.follow(taken, frame);
    else taken = first?.take(frame) ?? null;
    for (const reader of others) if (taken !== null) reader.follow(taken, frame);
  }

  #heldBySession(id: string): StreamState | null {
    for (const { session } of this.#sessions) {
      const state = session.stream(id);
      if (state !== null) return state;
    }
    return null;
  }

  /** Streams that no session brings any more: who looks at them asks himself. */
  #alone(): void {
    for (const [reader] of this.#streams.values()) reader?.alone();
  }

  /** What is safe to ask twice: asked again where no reply came.  Rejects where nobody wants a connection. */
  async #repeated<C extends Command>(command: C): Promise<ReplyTo<C>> {
    for (;;) {
      if (this.state === "closed" || this.state === "refused") {
        throw new CommandError({ code: CLOSED, message: `The connection is ${this.state}: open() makes one.` });
      }
      if (this.state !== "open") await new Promise<void>((changed) => this.#waiting.add(changed));
      else {
        try {
          return await this.#wire.request(command);
        } catch (error) {
          if (!(error instanceof CommandError) || error.code !== LOST) throw error;
        }
      }
    }
  }
}

function carriersOf(options: ClientOptions, encoding: () => Encoding, token: Token): Record<Transport, Carry | null> {
  const url = options.url === undefined ? addressBeside(document.baseURI) : new URL(options.url);
  const Socket = options.WebSocket ?? globalThis.WebSocket;
  return {
    websocket: typeof Socket === "function" ? overWebSocket(url, encoding, Socket) : null,
    http: overHttp(url, options.fetch ?? globalThis.fetch, () => token.shown),
  };
}
