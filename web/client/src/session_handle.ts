// One open session, and what its viewer does in it.
//
// Everything that a lost connection can interrupt is a fact held here: the positions of the session and its streams,
// the requests in the outbox, the turns that are to be stopped.  Every welcome takes up from those facts; so a network
// loss, a server's restart and a reload of the page are the same case.
//
//   no session (id null) --first message: generate, accepted--> session.open --+
//   an id -----------------------------------------------------> session.open --+--> entries, for as long as it is open
//   a saved one, a new connection: hello.resume with all positions ------------+
//
// What is held changes by frames alone; nothing is shown as done before the server says so.

import { Asking, againInMs } from "./asking.ts";
import { Emitter } from "./emitter.ts";
import { CommandError, LOST } from "./errors.ts";
import type { Accepted, CancelCommand, Content, Envelope, Frame, Resume } from "./frames.ts";
import type { SessionHost, SessionReader, Taken } from "./host.ts";
import type { Chosen, Request } from "./options.ts";
import { Orders } from "./orders.ts";
import type { Sender } from "./outbox.ts";
import { newRequest } from "./outbox.ts";
import type { Note, Right, SessionState } from "./session.ts";
import * as held from "./session.ts";
import { loaded, stored } from "./storage.ts";
import type { StreamState } from "./stream.ts";
import { Verdict, newStream, position, startOver } from "./stream.ts";
import type { PathItem, TreeNode } from "./tree.ts";
import { isNewest, pathOf, treeOf } from "./tree.ts";
import { Typists } from "./typists.ts";

const HISTORY = 100; // messages that are asked for at a time
const CHOICES_KEY = "everstream.choices.1.";

/** A session as plain data, to be stored as JSON at once: it is what is held, and goes on changing. */
export interface SavedSession {
  session: SessionState | null;
  choices: Record<string, string>;
  /** Turns that are to be stopped. */
  stopping: string[];
}

export interface SessionEvents {
  /** Something is to be shown. */
  change: Record<string, never>;
  /** A stream went on. */
  grown: { stream: StreamState; frame: Frame };
  /** The first message has made the session. */
  made: { id: string; stream: string };
  /** A turn is over. */
  ended: { frame: Extract<Frame, { type: "turn_end" }> };
  /** It is closed to the viewer: "unknown", "deleted", or in words. */
  gone: { why: string };
  failed: { text: string };
}

export class Session extends Orders {
  #host: SessionHost;
  #reader: SessionReader;
  #sender: Sender;
  #asking: Asking;
  #events = new Emitter<SessionEvents>();
  #id: string | null;
  #state: SessionState;
  #choices: Record<string, string>;
  #stopping: string[];
  #typists = new Typists(() => this.#changed());
  #isOpen = true;

  /** By `Client.session` only. */
  constructor(host: SessionHost, id: string | null, saved?: SavedSession) {
    super(host.wire);
    this.#host = host;
    this.#id = id;
    const kept = id !== null && saved?.session?.id === id ? saved : null;
    this.#state = kept?.session ?? held.newSession(id ?? "", host.wire.welcome?.user.id ?? null);
    this.#stopping = kept?.stopping ?? [];
    this.#choices = kept?.choices ?? this.#choicesOf(id);
    this.#asking = new Asking(host.wire);
    this.#sender = {
      accepted: (request, reply) => this.#accepted(request, reply),
      refused: () => this.#changed(),
    };
    this.#reader = {
      session: this,
      resume: () => this.#resume(),
      welcomed: () => this.#welcomed(),
      take: (frame) => this.#take(frame),
    };
    // What a reload has left in the outbox.
    host.outbox.adopt(this.#sender, ({ session, messages, left }) => session === id && !messages && !left);
    if (id !== null) host.outbox.leave();
    host.opens(this.#reader);
    if (id !== null) this.#fetch();
  }

  // ------------------------------------------------------------------ what there is

  /** null until its first message has made it. */
  override get id(): string | null {
    return this.#id;
  }

  /** What is held: to be read, and left as it is. */
  get state(): SessionState {
    return this.#state;
  }

  /** The branch that is looked at. */
  get path(): PathItem[] {
    return this.#id === null ? [] : pathOf(treeOf(this.#state), this.#choices);
  }

  /** What was said here and is not to be seen yet. */
  get requests(): Request[] {
    return this.#host.outbox.of(this.#sender).filter((request) => !request.left && !request.reply?.seen);
  }

  /** The other users who type. */
  get typing(): string[] {
    return this.#typists.users;
  }

  get stopping(): boolean {
    return held.busyTurns(this.#state).some(({ turn }) => this.#stopping.includes(turn));
  }

  may(right: Right): boolean {
    return held.may(this.#state, right);
  }

  stream(id: string): StreamState | null {
    return held.streamOf(this.#state, id);
  }

  note(id: string): Note {
    return held.noteOf(this.#state, id);
  }

  on<K extends keyof SessionEvents>(event: K, listener: (value: SessionEvents[K]) => void): () => void {
    return this.#events.on(event, listener);
  }

  saved(): SavedSession {
    const session = this.#id === null ? null : this.#state;
    return { session, choices: this.#choices, stopping: this.#stopping };
  }

  /** Look at it no more.  What was sent is still sent. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    if (this.#id !== null) this.#host.wire.send({ type: "session.close", session: this.#id });
    this.#asking.clear();
    this.#typists.forget();
    const { outbox } = this.#host;
    for (const request of outbox.of(this.#sender)) request.left ||= request.session === null;
    outbox.release(this.#sender);
    this.#host.closes(this.#reader);
  }

  // ------------------------------------------------------------------ what its viewer does

  /** Say something behind the path that is looked at. */
  send(content: Content, chosen: Chosen = {}): void {
    const path = this.path;
    const last = path.at(-1)?.node;
    const parent = isNewest(path) ? undefined : last?.message?.id;
    this.#post({ ...chosen, content, parent, choice: parent === undefined ? undefined : last?.key });
  }

  /** Say something else in place of `node`'s message: a branch beside it. */
  edit({ above, message }: TreeNode, content: Content, chosen: Chosen = {}): void {
    this.#post({ ...chosen, content, parent: message?.parent, choice: above });
  }

  /** Have what `node` answers answered once more. */
  regenerate({ above, message }: TreeNode, chosen: Chosen = {}): void {
    this.#post({ ...chosen, parent: message?.parent, choice: above });
  }

  /** Send what was refused once more, as a request of its own. */
  postAgain(request: Request, chosen: Chosen = {}): void {
    const { content, parent, choice, model, params, on_busy, system } = request;
    this.#host.outbox.drop(request);
    this.#post({ content, parent, choice, model, params, on_busy, system, ...chosen });
  }

  drop(request: Request): void {
    this.#host.outbox.drop(request);
    this.#changed();
  }

  /** Look at the branch `key` below `above`. */
  choose(above: string, key: string): void {
    this.#choices[above] = key;
    stored(this.#host.storage, CHOICES_KEY + this.#id, this.#choices);
    this.#changed();
  }

  /** Stop what runs; remembered while there is no connection. */
  stop(): void {
    if (this.#id === null || this.stopping) return;
    this.#stopping = held.busyTurns(this.#state).map(({ turn }) => turn);
    if (this.#stopping.length > 0) this.#cancel({ type: "cancel", session: this.#id });
    this.#changed();
  }

  /** Read the page of messages before those that are here. */
  async earlier(): Promise<void> {
    const page = await this.history(this.#state.messages[0]?.id, HISTORY);
    if (page === null || !this.#isOpen) return;
    held.addHistory(this.#state, page);
    this.#changed();
  }

  // ------------------------------------------------------------------ the connection

  /** The places that a new connection goes on from. */
  #resume(): Resume[] {
    if (this.#id === null || !this.#state.opened) return [];
    this.#asking.clear();
    const resumed = held.positions(this.#state);
    for (const { stream } of resumed) (held.streamOf(this.#state, stream) ?? this.#state).waiting = true;
    return resumed;
  }

  /** A welcome has come: take up what is unfinished. */
  #welcomed(): void {
    const state = this.#state;
    const me = this.#host.wire.welcome?.user.id ?? null;
    // Another token may have been entered, and what is held is how somebody else saw it.
    const other = state.me !== null && state.me !== me;
    state.me = me;
    // Who is not waiting was opened after the hello.
    if (this.#id !== null && (!state.opened || !state.waiting || other)) this.#fetch();
    // The server has what it has accepted: it comes with the session.
    const { outbox } = this.#host;
    for (const request of outbox.of(this.#sender)) if (request.reply !== null) outbox.done(request);
    this.#stopAgain();
    this.#changed();
  }

  #fetch(): void {
    const state = this.#state;
    const responses = held.readStreams(state).map(position);
    this.#ask(state, { type: "session.open", session: state.id, history: HISTORY, responses });
  }

  #subscribe(place: SessionState | StreamState): void {
    if (place === this.#state && !this.#state.opened) this.#fetch();
    else this.#ask(place, { type: "subscribe", ...position(place) });
  }

  #ask(place: SessionState | StreamState, command: Parameters<Asking["ask"]>[1]): void {
    const failed = (error: CommandError) => this.#isOpen && this.#unreadable(place, error);
    this.#asking.ask(place, command, (reply) => this.#isOpen && this.#take(reply), failed);
  }

  /** It cannot be read.  If that passes, ask again; if not, a session is closed, and a stream is left as it is. */
  #unreadable(place: SessionState | StreamState, error: CommandError): void {
    if (error.retryable) {
      const isHeld = () => this.#isOpen && (place === this.#state || held.streamOf(this.#state, place.id) === place);
      setTimeout(() => isHeld() && this.#subscribe(place), againInMs(error));
    } else if (place === this.#state) {
      this.#gone(error.code.endsWith(".unknown") ? "unknown" : error.message);
    } else {
      delete this.#state.streams[place.id];
      this.#changed();
    }
  }

  #take(frame: Frame): Taken | null {
    const state = this.#state;
    if (this.#id === null) return null;
    if (frame.type === "error") return this.#takeError(new CommandError(frame));
    if (frame.type === "typing") this.#typists.take(state.id, frame);
    const isOwn = held.isOwn(state, frame as Envelope);
    const stream = isOwn ? null : held.streamOf(state, (frame as Envelope).stream);
    if (!isOwn && stream === null) return null;
    const place = stream ?? state;
    if (this.#asking.has(place.id)) return stream && { state: stream, verdict: Verdict.IGNORED };
    const verdict = held.take(state, frame);
    if (verdict === Verdict.HOLE) this.#subscribe(place);
    if (stream !== null) {
      this.#events.emit("grown", { stream, frame });
      return { state: stream, verdict };
    }
    this.#taken(frame, verdict);
    return null;
  }

  /** An entry of the session itself, or its state, has come. */
  #taken(frame: Frame, verdict: Verdict): void {
    if (this.#state.deleted) return this.#gone("deleted");
    if (verdict === Verdict.IGNORED) return;
    if (verdict === Verdict.REPLACED) this.#host.replaced();
    this.#settle(frame);
    if (frame.type === "turn_end") this.#events.emit("ended", { frame });
    this.#changed();
  }

  #takeError(error: CommandError): null {
    const stream = held.streamOf(this.#state, error.stream);
    if (error.session === this.#id || error.stream === this.#id) this.#unreadable(this.#state, error);
    else if (stream !== null) this.#unreadable(stream, error);
    return null;
  }

  /** What the session shows is no longer pending, and what has ended need not be stopped. */
  #settle(frame: Frame | null): void {
    const { outbox } = this.#host;
    for (const request of outbox.of(this.#sender)) {
      if (request.reply !== null && this.#shows(request.reply.stream, frame)) outbox.done(request);
    }
    const busy = new Set(held.busyTurns(this.#state).map(({ turn }) => turn));
    this.#stopping = this.#stopping.filter((turn) => busy.has(turn));
  }

  #shows(stream: string, frame: Frame | null): boolean {
    const { turns, messages } = this.#state;
    if (frame?.type === "turn_end" && frame.stream === stream) return true;
    return turns.some((turn) => turn.stream === stream) || messages.some((message) => message.stream === stream);
  }

  #gone(why: string): void {
    this.close();
    this.#changed();
    this.#events.emit("gone", { why });
  }

  #changed(): void {
    this.#events.emit("change", {});
  }

  protected override failed(text: string): void {
    this.#events.emit("failed", { text });
  }

  #choicesOf(id: string | null): Record<string, string> {
    return (id === null ? null : (loaded(this.#host.storage, CHOICES_KEY + id) as Record<string, string> | null)) ?? {};
  }

  // ------------------------------------------------------------------ sending

  #post(fields: Partial<Request>): void {
    this.#host.outbox.post(newRequest({ ...fields, session: this.#id }), this.#sender);
    this.#changed();
  }

  #accepted(request: Request, reply: Accepted): void {
    const { session, message, stream, epoch } = reply;
    if (request.session === null && this.#id === null && !request.left && session) this.#made(session, stream);
    if (session !== this.#id) {
      this.#host.wire.send({ type: "unsubscribe", stream }); // its sender has gone to look at something else
      this.#host.outbox.done(request);
      return;
    }
    // It is read from its start from now on, also where it was being read already.
    const known = held.streamOf(this.#state, stream);
    if (known === null) this.#state.streams[stream] = newStream(stream, epoch);
    else startOver(known, epoch);
    const choice = request.content === undefined ? stream : message;
    if (request.choice !== undefined && choice) this.choose(request.choice, choice);
    if (!this.#state.opened) this.#fetch();
    this.#settle(null);
    this.#changed();
  }

  #made(id: string, stream: string): void {
    this.#id = id;
    this.#state = { ...held.newSession(id, this.#host.wire.welcome?.user.id ?? null), role: "owner" };
    for (const next of this.#host.outbox.of(this.#sender)) if (next.sends === 0) next.session = id;
    this.#events.emit("made", { id, stream });
  }

  /** After a new welcome: only what was to be stopped, for something else may run by now. */
  #stopAgain(): void {
    if (this.#id === null || this.#stopping.length === 0) return;
    const busy = held.busyTurns(this.#state);
    if (busy.every(({ turn }) => this.#stopping.includes(turn))) this.#cancel({ type: "cancel", session: this.#id });
    else {
      const wanted = busy.filter(({ turn }) => this.#stopping.includes(turn));
      for (const { stream } of wanted) this.#cancel({ type: "cancel", stream });
    }
  }

  #cancel(command: CancelCommand): void {
    this.#host.wire.ask(command, (_, error) => {
      // The next welcome cancels again; an error says that the answer goes on.
      if (error === null || error.code === LOST) return;
      this.#stopping = [];
      this.failed(`It could not be stopped. ${error.code}: ${error.message}`);
      this.#changed();
    });
  }
}
