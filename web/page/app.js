// The page: wires the connection, the open session and the views together.
//
//   Wire --frame--> Conversation (session.js, stream.js) --once a screen frame--> LogView
//     ^                 | hole: subscribe again
//     +-- hello.resume, outbox, cancel: whatever is unfinished, at every welcome
//
// Which session is open is the address's matter ("#s_…"): a link, a bookmark, a reload and the list are the same case.

import { About, confirmed } from "./about.js";
import { Conversation } from "./conversation.js";
import { EndKeeper } from "./follow.js";
import { LogView } from "./log.js";
import { Meter } from "./meter.js";
import { busyTurns, may, streamOf } from "./session.js";
import { SessionList } from "./sessions.js";
import { Settings } from "./settings.js";
import { Token } from "./token.js";
import { showTop } from "./top.js";
import { Voice } from "./voice.js";
import { State, Wire, addressBeside } from "./wire.js";

const SAVE_EVERY_MS = 1_000;
const TICK_EVERY_MS = 200; // how often figures move while nothing arrives
const HISTORY_PIECES = 200; // so many at once were not made just now
const TYPING_EVERY_MS = 3_000;
const CLOSE_UNAUTHORIZED = 4501;
const CLOSE_EXPIRED = 4005;
const WANTED = "This server wants to know who uses it.";
const REFUSED = "The server does not accept this token, or not any more. Enter another one.";
const EXPIRED = "Your token has expired. Enter a new one, and everything goes on where it was.";
const EXPIRING = "Your token expires soon. With a new one nothing is interrupted.";
const GONE = {
  unknown: "This chat does not exist, or you are not in it (any more).",
  deleted: "This chat was deleted.",
};

const $ = (id) => document.getElementById(id);
const CONNECTION_LABELS = {
  [State.CLOSED]: "closed",
  [State.CONNECTING]: "connecting",
  [State.OPEN]: "connected",
  [State.WAITING]: "reconnecting",
  [State.REFUSED]: "refused",
};

class Page {
  #meters = new Map(); // stream -> Meter
  #path = [];
  #drawing = false;
  #stale = true; // more than text has changed since the last drawing
  #toEnd = false;
  #ticking = 0;
  #savedAt = 0;
  #typedAt = 0;
  #act = () => {}; // what the notice's button does

  constructor() {
    this.token = new Token(sessionStorage, {
      check: (token) => this.#renew(token),
      onEntered: () => this.#connectNow(),
      onLeft: () => this.#offerToken(),
      onForget: () => this.#forgotten(),
    });
    this.settings = new Settings(localStorage);
    this.voice = new Voice($("spoken"));
    this.end = new EndKeeper($("scroller"), $("to-latest"));
    this.wire = new Wire({
      url: addressBeside(document.baseURI),
      hello: () => this.#hello(),
      onFrame: (frame) => this.#onFrame(frame),
      onState: (state, detail) => this.#onState(state, detail),
    });
    this.conversation = new Conversation({
      wire: this.wire,
      storage: sessionStorage,
      on: {
        changed: () => this.#changed(),
        grown: (frame) => this.#grown(frame),
        made: (id, stream) => this.#made(id, stream),
        ended: (frame) => this.#ended(frame),
        gone: (why) => this.#gone(why),
        failed: (text) => this.about.fail(text) || this.#notice(text),
      },
    });
    this.log = new LogView({ log: $("log"), coming: $("coming"), act: this.#acts() });
    const onDelete = (session) => this.#delete(session);
    this.list = new SessionList({ ask: (command) => this.wire.request(command), onDelete });
    this.about = new About({ conversation: this.conversation, onDelete });
    this.conversation.restore(sessionInAddress());
    if (this.session !== null) this.voice.skip(this.session);
    this.#listen();
    this.#toEnd = true;
    this.#changed();
    this.wire.open();
  }

  get session() {
    return this.conversation.session;
  }

  get #running() {
    return this.session === null ? [] : busyTurns(this.session);
  }

  get #maySend() {
    return this.session === null || may(this.session, "send");
  }

  // ------------------------------------------------------------------ what the reader does

  #listen() {
    const prompt = $("prompt");
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#say(prompt.value.trim());
    });
    prompt.addEventListener("keydown", (event) => {
      // `isComposing`: Enter that ends the input of a Japanese or Chinese word is no Enter.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#say(prompt.value.trim());
    });
    prompt.addEventListener("input", () => this.#typed(prompt.value !== ""));
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
      if (this.list.isDrawerShown) this.list.showDrawer(false);
      else if (this.#running.length > 0 && this.#maySend) this.conversation.stop();
    });
    $("stop").addEventListener("click", () => this.conversation.stop());
    $("new-chat").addEventListener("click", () => this.#newChat());
    $("earlier").addEventListener("click", () => this.#earlier());
    $("notice-action").addEventListener("click", () => this.#act());
    window.addEventListener("hashchange", () => this.#moved());
    window.addEventListener("online", () => this.wire.wake());
    window.addEventListener("pageshow", () => this.wire.wake());
    window.addEventListener("pagehide", () => this.conversation.save());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState !== "visible") return this.conversation.save();
      this.wire.wake();
      this.list.load(); // others may have let us in meanwhile
    });
  }

  /** What the views can have done, by name. */
  #acts() {
    const { conversation } = this;
    const { orders } = conversation;
    return {
      choose: (above, key) => conversation.choose(above, key),
      edit: (node, text) => conversation.edit(node, text, this.#chosen()),
      regenerate: (node) => conversation.regenerate(node, this.#chosen()),
      removeQueued: (turn) => orders.removeQueued(turn),
      drop: (request) => conversation.drop(request),
      postAgain: (request) => conversation.postAgain(request, this.#chosen()),
      approve: (...decision) => orders.approve(...decision),
      giveResult: (...result) => orders.giveResult(...result),
    };
  }

  #chosen() {
    const { model, system } = this.settings;
    const on_busy = $("on-busy").hidden ? "queue" : $("on-busy").value;
    return { model, params: this.settings.params(), on_busy, system: this.session === null ? system : "" };
  }

  #say(text) {
    const unmade = this.session === null && this.conversation.requests.some(({ error }) => error === null);
    if (text === "" || this.settings.model === "" || !this.#maySend || unmade) return;
    this.#dismiss();
    $("prompt").value = "";
    this.#typed(false);
    this.#toEnd = true;
    this.conversation.say(text, this.#chosen());
    $("prompt").focus();
  }

  /** Tell the others that somebody types: not at every key. */
  #typed(typing) {
    if (this.session === null || this.session.members.length < 2) return;
    const now = performance.now();
    if (typing ? this.#typedAt !== 0 && now - this.#typedAt < TYPING_EVERY_MS : this.#typedAt === 0) return;
    this.#typedAt = typing ? now : 0;
    this.conversation.orders.type(typing);
  }

  #newChat() {
    this.list.showDrawer(false);
    if (sessionInAddress() === null) this.#moved();
    else location.hash = "";
    $("prompt").focus();
  }

  /** The address names another session, or none. */
  #moved() {
    const id = sessionInAddress();
    if (id !== null && id === this.conversation.id) return;
    this.#dismiss();
    this.#typedAt = 0;
    this.#meters.clear();
    this.voice.forget();
    this.#toEnd = true;
    this.conversation.open(id);
  }

  async #earlier() {
    const { scrollHeight, scrollTop } = $("scroller");
    await this.conversation.earlier();
    this.#show();
    $("scroller").scrollTop = scrollTop + $("scroller").scrollHeight - scrollHeight;
  }

  async #delete({ session, title }) {
    if (!(await confirmed(`Delete “${title || "Untitled"}” for everybody in it?`, "Delete"))) return;
    try {
      await this.wire.request({ type: "session.delete", session });
      if (session === this.conversation.id) this.#newChat();
      this.list.load();
    } catch ({ code, message }) {
      this.#notice(`It could not be deleted. ${code}: ${message}`);
    }
  }

  // ------------------------------------------------------------------ the connection and the token

  #hello() {
    const token = this.token.value;
    return { ...(token ? { token } : {}), resume: this.conversation.positions() };
  }

  #onState(state, { code, reason }) {
    const shown = $("connection");
    shown.dataset.state = state;
    shown.textContent = CONNECTION_LABELS[state];
    if (state === State.OPEN) {
      this.#notice("");
      this.#loadModels();
      this.list.load();
      this.conversation.welcomed();
    } else if (code === CLOSE_UNAUTHORIZED || code === CLOSE_EXPIRED) {
      this.wire.close(); // no use in coming back without another token
      const why = code === CLOSE_EXPIRED ? EXPIRED : this.token.value === "" ? WANTED : REFUSED;
      this.token.forget();
      this.#notice("");
      this.token.ask(why);
    } else if (state === State.REFUSED) {
      this.#notice(`The server refused the connection (${code}${reason ? `: ${reason}` : ""}).`, "Connect again");
    }
  }

  #connectNow() {
    this.#notice("");
    this.wire.open();
  }

  /** Show a token to an open connection; what is wrong with it, or "".  A connection to come learns it by `hello`. */
  async #renew(token) {
    if (this.wire.state !== State.OPEN) return "";
    try {
      await this.wire.request({ type: "auth", token });
    } catch (error) {
      if (error.code !== "connection.lost") return `This token does not do: ${error.message}.`;
    }
    return "";
  }

  #offerToken() {
    if (this.wire.state === State.CLOSED) this.#notice(WANTED, "Enter a token", () => this.token.ask(WANTED));
  }

  #forgotten() {
    this.wire.close();
    this.list.clear();
    this.voice.forget();
    this.conversation.forget();
    this.#notice("The token is forgotten.", "Connect again");
  }

  async #loadModels() {
    try {
      const { models } = await this.wire.request({ type: "models" });
      this.settings.offer(models);
      this.#changed();
    } catch (error) {
      if (error.code !== "connection.lost") this.#notice(`${error.code}: ${error.message}`);
    }
  }

  // ------------------------------------------------------------------ what comes from the server

  #onFrame(frame) {
    if (frame.type === "error" && frame.stream === undefined && frame.session === undefined) this.#onError(frame);
    else this.conversation.onFrame(frame);
  }

  #onError(frame) {
    // A connection that is refused, or ended, for want of a token says so by its close code.
    if (!frame.code.startsWith("auth.")) this.#notice(`${frame.code}: ${frame.message}`);
    else if (frame.code === "auth.required" && this.wire.state === State.OPEN) {
      this.#notice(EXPIRING, "Enter a new token", () => this.token.ask(EXPIRING));
    }
  }

  /** A stream went on. */
  #grown(frame) {
    const stream = streamOf(this.session, frame.stream);
    if (stream === null) return;
    if (!this.#meters.has(stream.id)) this.#meters.set(stream.id, new Meter());
    const meter = this.#meters.get(stream.id);
    if (frame.type === "subscribed" || frame.type === "snapshot") meter.catchUp(frame.tail ?? frame.upto);
    else if (frame.upto - frame.after > HISTORY_PIECES) meter.catchUp(frame.upto);
    meter.note(performance.now(), stream.pieces, stream.offset);
    this.#draw();
  }

  #made(id, stream) {
    this.voice.begin(stream);
    history.replaceState(null, "", `#${id}`);
    this.list.load();
  }

  #ended({ stream, by, message }) {
    if (message === null && by && by !== this.session.me) this.#notice(`${by} has removed a queued message.`);
    this.#meters.delete(stream);
    this.list.load();
  }

  #gone(why) {
    history.replaceState(null, "", location.pathname + location.search);
    this.voice.forget();
    this.#notice(GONE[why] ?? why);
    this.list.load();
  }

  // ------------------------------------------------------------------ what is shown

  /** Something but the text of an answer has changed. */
  #changed() {
    this.#stale = true;
    this.#path = this.conversation.path;
    this.voice.change(this.session, this.#path.at(-1)?.node);
    this.#controls();
    this.#draw();
  }

  #controls() {
    const { session } = this;
    const requests = this.conversation.requests;
    const busy = this.#running.length > 0;
    $("welcome").hidden = session !== null || requests.length > 0;
    $("earlier").hidden = !session?.more;
    $("send").disabled = this.settings.model === "";
    $("composer").hidden = !this.#maySend && session.opened;
    $("reads-only").hidden = !$("composer").hidden;
    $("stop").hidden = !busy;
    $("stop").disabled = this.conversation.stopping;
    $("on-busy").hidden = !busy;
    if (!busy) $("on-busy").value = "queue";
    $("system-field").hidden = session !== null;
    $("show-about").hidden = !session?.role;
    showTop(session, this.conversation.typing);
    this.about.show();
    this.list.mark(session);
    clearInterval(this.#ticking);
    if (busy) this.#ticking = setInterval(() => this.#draw(), TICK_EVERY_MS);
  }

  /** Bring the page up to date with the next frame of the screen. */
  #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#show();
    });
  }

  #show() {
    if (this.#stale) this.#showAll();
    else this.log.grow();
    if (this.#toEnd) this.end.goToEnd();
    else this.end.keep();
    if (this.session?.opened || this.conversation.requests.length) this.#toEnd = false;
    if (this.#running.length === 0) return;
    const now = performance.now();
    this.voice.follow(this.session, now);
    if (now - this.#savedAt < SAVE_EVERY_MS) return;
    this.#savedAt = now;
    this.conversation.save();
  }

  #showAll() {
    this.#stale = false;
    const { session } = this;
    this.log.show(this.#path, this.conversation.requests, {
      session,
      several: (session?.members.length ?? 0) > 1,
      maySend: session !== null && may(session, "send"),
      mayApprove: session !== null && may(session, "approve"),
      stopping: this.conversation.stopping,
      rateOf: (stream) => this.#meters.get(stream?.id)?.perSecond(performance.now(), stream.pieces) ?? null,
    });
  }

  /** A notice that wants nothing done has been read. */
  #dismiss() {
    if ($("notice-action").hidden) this.#notice("");
  }

  #notice(text, action = "", act = () => this.#connectNow()) {
    this.#act = act;
    $("notice").hidden = text === "";
    $("notice-text").textContent = text;
    $("notice-action").hidden = action === "";
    $("notice-action").textContent = action;
  }
}

/** The session that the address names, or null. */
function sessionInAddress() {
  const id = location.hash.slice(1);
  return /^s_[0-9a-z]+$/.test(id) ? id : null;
}

new Page();
