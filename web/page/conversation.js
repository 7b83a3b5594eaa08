// One open session, and what its viewer does in it.
//
// Everything that a lost connection can interrupt is a fact held here: the positions of the session and its streams, the
// requests in the outbox, the turns that are to be stopped.  Every welcome takes up from those facts; so a network loss,
// a server's restart and a reload of the page are the same case.
//
//   no session ("New chat") --first message: generate, accepted--> session.open --+
//   an address with a session ------------------------------------> session.open --+--> entries, for as long as it is open
//   a reload, a new connection: hello.resume with all positions ------------------+
//
// What is held changes by frames alone; nothing is shown as done before the server says so.

import { loadChoices, loadTab, saveChoices, saveTab } from "./kept.js";
import { LOST, Orders } from "./orders.js";
import { commandOf, isPending, newRequest } from "./outbox.js";
import { addHistory, busyTurns, isOwn, newSession, positions, readStreams, streamOf, take } from "./session.js";
import { Verdict, newStream, position, startOver } from "./stream.js";
import { isNewest, pathOf, treeOf } from "./tree.js";
import { State } from "./wire.js";

const HISTORY = 100; // messages that are asked for at a time
const ASK_AGAIN_MS = 2_000; // at most this long until what failed for the moment is asked again
const TYPING_STANDS_MS = 6_000;
const FRAME_BYTES = 1_048_576; // until a welcome says otherwise
const TOO_LONG = { code: "protocol.too_large", message: "This is longer than the server takes." };

export class Conversation {
  #wire;
  #storage;
  #on;
  #outbox = [];
  #sending = Promise.resolve(); // until the last of the requests that were sent is answered, or lost
  #choices = {};
  #stopping = []; // turns that are to be stopped
  #typing = new Map(); // user -> the timer that ends it
  #asked = new Map(); // stream -> the newest subscribe without an answer

  /**
   * `on`: `changed()`, something is to be shown; `grown(frame)`, a stream went on; `made(id, stream)`, the first
   * message has made a session; `ended(frame)`, a turn is over; `gone(why)`, the session is closed to the viewer; `failed(text)`.
   */
  constructor({ wire, storage, on }) {
    this.#wire = wire;
    this.#storage = storage;
    this.#on = on;
    this.orders = new Orders({ wire, session: () => this.id, failed: on.failed });
    this.session = null;
  }

  /** What the tab held, where the address still names it. */
  restore(id) {
    const { session, outbox, stopping } = loadTab(this.#storage);
    this.#outbox = outbox;
    this.#stopping = stopping;
    if (id === null) return;
    for (const request of outbox) request.left ||= request.session === null;
    this.session = session?.id === id ? session : newSession(id);
    this.#choices = loadChoices(this.#storage, id);
  }

  get id() {
    return this.session?.id ?? null;
  }

  get me() {
    return this.#wire.welcome?.user?.id ?? this.session?.me ?? null;
  }

  get path() {
    return this.session === null ? [] : pathOf(treeOf(this.session), this.#choices);
  }

  /** Requests of this session whose effect is not to be seen yet. */
  get requests() {
    return this.#outbox.filter((request) => request.session === this.id && !request.left && !request.reply?.seen);
  }

  get typing() {
    return [...this.#typing.keys()];
  }

  get stopping() {
    return this.session !== null && busyTurns(this.session).some(({ turn }) => this.#stopping.includes(turn));
  }

  save() {
    saveTab(this.#storage, { session: this.session, outbox: this.#outbox, stopping: this.#stopping });
  }

  // ------------------------------------------------------------------ which session

  /** Look at another session; null is a new one. */
  open(id) {
    if (id === this.id && id !== null) return;
    this.#leave();
    for (const request of this.#outbox) request.left ||= request.session === null;
    if (id !== null) {
      this.session = newSession(id, this.me);
      this.#choices = loadChoices(this.#storage, id);
      this.#fetch();
    }
    this.#changed();
  }

  /** Hold nothing any more of what the user has seen; the address stays. */
  forget() {
    const { id } = this;
    this.#leave();
    this.#outbox = [];
    if (id !== null) this.session = newSession(id);
    this.#changed();
  }

  #leave() {
    if (this.session !== null) this.#wire.send({ type: "session.close", session: this.id });
    this.session = null;
    this.#choices = {};
    this.#stopping = [];
    this.#asked.clear();
    for (const timer of this.#typing.values()) clearTimeout(timer);
    this.#typing.clear();
  }

  async #fetch() {
    const session = this.session;
    const responses = readStreams(session).map(position);
    await this.#ask(session, { type: "session.open", session: session.id, history: HISTORY, responses });
  }

  /** Ask where `place`, the session or one of its streams, goes on.  Only the newest answer counts. */
  async #ask(place, command) {
    if (this.#wire.state !== State.OPEN) return; // the next welcome asks
    place.waiting = true;
    const asked = {};
    this.#asked.set(place.id, asked);
    const isNow = () => this.#asked.get(place.id) === asked;
    try {
      const answer = await this.#wire.request(command);
      if (!isNow()) return;
      this.#asked.delete(place.id);
      this.onFrame(answer);
    } catch (error) {
      if (!isNow()) return;
      this.#asked.delete(place.id);
      if (error.code !== LOST) this.#unreadable(place, error);
    }
  }

  #subscribe(place) {
    if (place === this.session && !place.opened) return this.#fetch();
    return this.#ask(place, { type: "subscribe", ...position(place) });
  }

  /** It cannot be read.  If that passes, ask again; if not, a session is closed, and a stream is left as it is. */
  #unreadable(place, { code, message, retryable, retry_after_ms }) {
    if (retryable) {
      const again = () => (place === this.session || streamOf(this.session ?? { streams: {} }, place.id) === place);
      setTimeout(() => again() && this.#subscribe(place), (retry_after_ms ?? 0) + Math.random() * ASK_AGAIN_MS);
    } else if (place === this.session) {
      this.#gone(code.endsWith(".unknown") ? "unknown" : message);
    } else {
      delete this.session.streams[place.id];
      this.#changed();
    }
  }

  /** Read the page of messages before those that are here. */
  async earlier() {
    const session = this.session;
    const before = session.messages[0]?.id;
    const reply = await this.orders.history(before, HISTORY);
    if (reply === null || session !== this.session) return;
    addHistory(session, reply);
    this.#changed();
  }

  // ------------------------------------------------------------------ the connection

  /** The positions that `hello` resumes from. */
  positions() {
    if (!this.session?.opened) return [];
    this.#asked.clear();
    const resumed = positions(this.session);
    for (const { stream } of resumed) (streamOf(this.session, stream) ?? this.session).waiting = true;
    return resumed;
  }

  /** A welcome has come: take up what is unfinished. */
  welcomed() {
    const session = this.session;
    if (session !== null) {
      // Another token may have been entered, and what is held is how somebody else saw it.
      const other = session.me !== null && session.me !== this.me;
      session.me = this.me;
      if (!session.opened || other) this.#fetch();
    }
    // The server has what it has accepted: it comes with the session.
    this.#outbox = this.#outbox.filter((request) => request.reply === null || request.system);
    for (const request of this.#outbox) {
      if (isPending(request)) this.#sendNext(request);
      else if (request.system) this.#setSystem(request);
    }
    this.#stopAgain();
    this.#changed();
  }

  onFrame(frame) {
    const session = this.session;
    if (session === null) return;
    if (frame.type === "error") return this.#onError(frame);
    if (frame.type === "typing" && frame.session === session.id) return this.#onTyping(frame);
    const place = isOwn(session, frame) ? session : streamOf(session, frame.stream);
    if (place === null || this.#asked.has(place.id)) return; // an answer on its way says where to go on
    const verdict = take(session, frame);
    if (verdict === Verdict.HOLE) this.#subscribe(place);
    if (place !== session) return this.#on.grown(frame);
    if (session.deleted) return this.#gone("deleted");
    if (verdict === Verdict.IGNORED) return;
    this.#settle(frame);
    if (frame.type === "turn_end") this.#on.ended(frame);
    this.#changed();
  }

  #onError(frame) {
    if (frame.session === this.id || frame.stream === this.id) this.#unreadable(this.session, frame);
    else if (streamOf(this.session, frame.stream)) this.#unreadable(streamOf(this.session, frame.stream), frame);
  }

  #onTyping({ user, typing }) {
    clearTimeout(this.#typing.get(user));
    this.#typing.delete(user);
    const stop = () => this.#onTyping({ user, typing: false });
    if (typing) this.#typing.set(user, setTimeout(stop, TYPING_STANDS_MS));
    this.#changed();
  }

  /** What the session shows is no longer pending, and what has ended need not be stopped. */
  #settle(frame) {
    for (const { reply } of this.#outbox) if (reply !== null) reply.seen ||= this.#shows(reply, frame);
    this.#outbox = this.#outbox.filter(({ reply, system }) => !reply?.seen || system);
    const busy = new Set(busyTurns(this.session).map(({ turn }) => turn));
    this.#stopping = this.#stopping.filter((turn) => busy.has(turn));
  }

  #shows({ stream }, frame) {
    const { turns, messages } = this.session;
    if (frame.type === "turn_end" && frame.stream === stream) return true;
    return turns.some((turn) => turn.stream === stream) || messages.some((message) => message.stream === stream);
  }

  #gone(why) {
    this.#leave();
    this.#changed();
    this.#on.gone(why);
  }

  #changed() {
    this.save();
    this.#on.changed();
  }

  // ------------------------------------------------------------------ sending

  /** Say something behind the path that is looked at. */
  say(content, chosen) {
    const path = this.path;
    const last = path.at(-1)?.node;
    const parent = isNewest(path) ? undefined : last?.message?.id;
    this.#post({ ...chosen, session: this.id, content, parent, choice: parent && last.key });
  }

  /** Say something else in place of `node`'s message: a branch beside it. */
  edit({ above, message }, content, chosen) {
    this.#post({ ...chosen, session: this.id, content, parent: message.parent, choice: above });
  }

  /** Have what `node` answers answered once more. */
  regenerate({ above, message }, chosen) {
    this.#post({ ...chosen, session: this.id, parent: message.parent, choice: above });
  }

  #post(fields) {
    const request = newRequest(fields);
    this.#outbox.push(request);
    this.#sendNext(request);
    this.#changed();
  }

  /** One after the other: what is sent at once may arrive in any order. */
  #sendNext(request) {
    this.#sending = this.#sending.then(() => this.#send(request));
  }

  /** Send what was refused once more, as a request of its own. */
  postAgain(request, chosen) {
    this.drop(request);
    this.#post({ ...request, ...chosen });
  }

  drop(request) {
    this.#outbox = this.#outbox.filter((other) => other !== request);
    this.#changed();
  }

  async #send(request) {
    if (!isPending(request) || !this.#outbox.includes(request)) return;
    const command = commandOf(request);
    const size = new TextEncoder().encode(JSON.stringify(command)).length;
    if (size >= (this.#wire.welcome?.limits?.frame_bytes ?? FRAME_BYTES)) request.error = TOO_LONG;
    if (request.error !== null || this.#wire.state !== State.OPEN) return; // the next welcome sends it
    request.sends += 1;
    this.save();
    try {
      this.#accepted(request, await this.#wire.request(command));
    } catch ({ code, message }) {
      if (code === LOST) return;
      request.error = { code, message };
    }
    this.#changed();
  }

  #accepted(request, { session, message, stream, epoch }) {
    request.reply = { stream, seen: false };
    if (request.session === null) {
      if (this.session === null && !request.left) this.#made(session, stream);
      request.session = session;
      if (request.system) this.#setSystem(request);
    }
    if (session !== this.id) {
      this.#wire.send({ type: "unsubscribe", stream }); // its sender has gone to look at something else
      if (!request.system) this.drop(request);
      return;
    }
    // It is read from its start from now on, also where it was being read already.
    const held = streamOf(this.session, stream);
    if (held === null) this.session.streams[stream] = newStream(stream, epoch);
    else startOver(held, epoch);
    if (request.choice !== undefined) this.choose(request.choice, request.content === undefined ? stream : message);
    if (!this.session.opened) this.#fetch();
    this.#settle({});
  }

  #made(id, stream) {
    this.session = { ...newSession(id, this.me), role: "owner" };
    this.#choices = {};
    this.#on.made(id, stream);
  }

  async #setSystem(request) {
    const { session, system } = request;
    if ((await this.orders.set(session, { system })) !== LOST) this.drop(request); // else the next welcome sets it
  }

  /** Look at this branch below `above`. */
  choose(above, key) {
    this.#choices[above] = key;
    saveChoices(this.#storage, this.id, this.#choices);
    this.#changed();
  }

  // ------------------------------------------------------------------ the rest of what one may do

  stop() {
    if (this.session === null || this.stopping) return;
    this.#stopping = busyTurns(this.session).map(({ turn }) => turn);
    if (this.#stopping.length > 0) this.#cancel({ session: this.id });
    this.#changed();
  }

  /** After a new welcome: only what was to be stopped, for something else may run by now. */
  #stopAgain() {
    if (this.session === null || this.#stopping.length === 0) return;
    const busy = busyTurns(this.session);
    if (busy.every(({ turn }) => this.#stopping.includes(turn))) this.#cancel({ session: this.id });
    else for (const { turn, stream } of busy) if (this.#stopping.includes(turn)) this.#cancel({ stream });
  }

  async #cancel(what) {
    if (this.#wire.state !== State.OPEN) return;
    try {
      await this.#wire.request({ type: "cancel", ...what });
    } catch (error) {
      // The next welcome cancels again; an error says that the answer goes on.
      if (error.code === LOST) return;
      this.#stopping = [];
      this.#on.failed(`It could not be stopped. ${error.code}: ${error.message}`);
      this.#changed();
    }
  }
}
