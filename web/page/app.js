// The page: wires the connection, the conversation and the views together.
//
//   Wire --frame--> apply(stream) --once a screen frame--> TurnView
//     ^                 | hole: subscribe again
//     +-- hello.resume, generate, cancel: whatever the running turn still needs, at every welcome
//
// Only one turn runs at a time.  Everything that a lost connection can interrupt is a fact in the turn (its phase, its
// position, whether it is to be stopped), and every welcome takes up from those facts; so a network loss, a server's
// restart and a reload of the page are the same case.

import { Phase, answerOf, canAskAgain, commandOf, load, newTurn, save } from "./conversation.js";
import { Meter } from "./meter.js";
import { Settings } from "./settings.js";
import { Verdict, apply, newStream, position } from "./stream.js";
import { Token } from "./token.js";
import { EndKeeper, Speaker, TurnView } from "./view.js";
import { State, Wire, addressBeside } from "./wire.js";

const SAVE_EVERY_MS = 1_000;
const TICK_EVERY_MS = 200; // how often figures move while nothing arrives
const ASK_AGAIN_MS = 2_000; // at most this long until a subscribe that failed for the moment is sent again
const FRAME_BYTES = 1_048_576; // until a welcome says otherwise
const CLOSE_UNAUTHORIZED = 4501;
const CLOSE_EXPIRED = 4005;
const WANTED = "This server wants to know who uses it.";
const REFUSED = "The server does not accept this token, or not any more. Enter another one.";
const EXPIRED = "Your token has expired. Enter a new one, and everything goes on where it was.";
const EXPIRING = "Your token expires soon. With a new one nothing is interrupted.";

const $ = (id) => document.getElementById(id);
const CONNECTION_LABELS = {
  [State.CLOSED]: "closed",
  [State.CONNECTING]: "connecting",
  [State.OPEN]: "connected",
  [State.WAITING]: "reconnecting",
  [State.REFUSED]: "refused",
};

class Page {
  #turns = load(sessionStorage);
  #views = [];
  #meter = new Meter();
  #asked = null; // the newest subscribe without an answer
  #drawing = false;
  #ticking = 0;
  #savedAt = 0;
  #act = () => {}; // what the notice's button does

  constructor() {
    this.token = new Token(sessionStorage, {
      check: (token) => this.#renew(token),
      onEntered: () => this.#connectNow(),
      onLeft: () => this.#offerToken(),
      onForget: () => this.#forgotten(),
    });
    this.settings = new Settings(localStorage);
    this.speaker = new Speaker($("spoken"));
    this.end = new EndKeeper($("scroller"), $("to-latest"));
    this.wire = new Wire({
      url: addressBeside(document.baseURI),
      hello: () => this.#hello(),
      onFrame: (frame) => this.#onFrame(frame),
      onState: (state, detail) => this.#onState(state, detail),
    });
    this.#listen();
    this.#rebuild();
    this.speaker.begin(this.#running?.stream?.text.length ?? 0);
    this.wire.open();
  }

  get #last() {
    return this.#turns.at(-1) ?? null;
  }

  get #running() {
    return this.#last !== null && this.#last.phase !== Phase.ENDED ? this.#last : null;
  }

  // ------------------------------------------------------------------ what the reader does

  #listen() {
    const prompt = $("prompt");
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask(prompt.value.trim());
    });
    prompt.addEventListener("keydown", (event) => {
      // `isComposing`: Enter that ends the input of a Japanese or Chinese word is no Enter.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#ask(prompt.value.trim());
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#running && !document.querySelector("dialog[open]")) this.#stop();
    });
    $("stop").addEventListener("click", () => this.#stop());
    $("new-chat").addEventListener("click", () => this.#newChat());
    $("notice-action").addEventListener("click", () => this.#act());
    window.addEventListener("online", () => this.wire.wake());
    window.addEventListener("pageshow", () => this.wire.wake());
    window.addEventListener("pagehide", () => this.#save());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.wire.wake();
      else this.#save();
    });
  }

  #ask(prompt) {
    if (prompt === "" || this.#running || this.settings.model === "") return;
    this.#turns.push(newTurn(prompt, this.settings.model, this.settings.params()));
    $("prompt").value = "";
    this.#begin();
  }

  #askAgain() {
    if (this.#running || !canAskAgain(this.#last)) return;
    const { prompt, model, params } = this.#turns.pop();
    this.#turns.push(newTurn(prompt, model, params));
    this.#views.pop().root.remove();
    this.#begin();
  }

  #begin() {
    this.speaker.begin();
    this.#addView(this.#last);
    this.end.goToEnd();
    this.#generate(this.#last);
    this.#changed();
    $("prompt").focus();
  }

  #stop() {
    const turn = this.#running;
    if (turn === null || turn.stopping) return;
    turn.stopping = true;
    if (turn.sends === 0) this.#finish(turn); // nobody has heard of it
    else if (turn.phase === Phase.RUNNING) this.#cancel(turn);
    this.#changed();
  }

  #newChat() {
    const turn = this.#running;
    if (turn?.phase === Phase.RUNNING) this.#cancel(turn);
    this.#turns = [];
    this.#notice("");
    this.#rebuild();
    this.#changed();
    $("prompt").focus();
  }

  // ------------------------------------------------------------------ what is asked of the server

  #hello() {
    const token = this.token.value;
    const stream = this.#running?.stream;
    if (stream) stream.waiting = true;
    return { ...(token ? { token } : {}), resume: stream ? [position(stream)] : [] };
  }

  #onState(state, { code, reason }) {
    const shown = $("connection");
    shown.dataset.state = state;
    shown.textContent = CONNECTION_LABELS[state];
    if (state === State.OPEN) {
      this.#notice("");
      this.#loadModels();
      const turn = this.#running;
      if (turn?.phase === Phase.SENDING) this.#generate(turn);
      else if (turn?.stopping) this.#cancel(turn);
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
    this.#notice("The token is forgotten.", "Connect again");
  }

  async #loadModels() {
    try {
      const { models } = await this.wire.request({ type: "models" });
      this.settings.offer(models);
      this.#controls();
    } catch (error) {
      if (error.code !== "connection.lost") this.#notice(`${error.code}: ${error.message}`);
    }
  }

  async #generate(turn) {
    const made = commandOf(this.#turns, this.wire.welcome?.limits?.frame_bytes ?? FRAME_BYTES);
    if (made === null) {
      const message = "This prompt is longer than the server takes.";
      this.#finish(turn, { code: "protocol.too_large", message, retryable: false });
      return;
    }
    if (this.wire.state !== State.OPEN) return; // the next welcome sends it
    turn.left_out = made.leftOut;
    turn.sends += 1;
    this.#save();
    try {
      const accepted = await this.wire.request(made.command);
      if (turn !== this.#running) return this.#cancelStream(accepted.stream);
      turn.phase = Phase.RUNNING;
      turn.stream = newStream(accepted.stream, accepted.epoch);
      // A repeated request gets the first reply again, and that one made another connection a reader.
      if (turn.sends > 1) this.#subscribe();
      if (turn.stopping) this.#cancel(turn);
    } catch (error) {
      if (error.code === "connection.lost" || turn !== this.#running) return;
      this.#finish(turn, { code: error.code, message: error.message, retryable: error.retryable });
    }
    this.#changed();
  }

  async #cancel(turn) {
    try {
      await this.wire.request({ type: "cancel", stream: turn.stream.id });
    } catch (error) {
      // The next welcome cancels again; an error says that the answer goes on.
      if (error.code === "connection.lost" || turn.phase === Phase.ENDED) return;
      turn.stopping = false;
      this.#notice(`It could not be stopped. ${error.code}: ${error.message}`);
      this.#changed();
    }
  }

  #cancelStream(stream) {
    this.wire.send({ type: "cancel", stream });
  }

  async #subscribe() {
    const stream = this.#running?.stream;
    if (!stream) return;
    stream.waiting = true;
    const asked = (this.#asked = { stream: stream.id }); // answers to older questions do not count
    try {
      const answer = await this.wire.request({ type: "subscribe", ...position(stream) });
      if (this.#asked !== asked) return;
      this.#asked = null;
      this.#onFrame(answer);
    } catch (error) {
      if (this.#asked !== asked) return;
      this.#asked = null;
      if (error.code !== "connection.lost") this.#streamFailed(error);
    }
  }

  // ------------------------------------------------------------------ what comes from it

  #onFrame(frame) {
    const turn = this.#running;
    const stream = turn?.stream ?? null;
    if (frame.type === "error") {
      if (stream !== null && frame.stream === stream.id) this.#streamFailed(frame);
      else this.#onError(frame);
      return;
    }
    if (stream === null || frame.stream !== stream.id) return;
    if (this.#asked?.stream === stream.id) return; // the answer says where to go on
    if (frame.type === "subscribed" || frame.type === "snapshot") this.#meter.catchUp(frame.tail ?? frame.upto);
    if (apply(stream, frame) === Verdict.HOLE) this.#subscribe();
    this.#meter.note(performance.now(), stream.pieces, stream.offset);
    if (stream.end !== null) this.#finish(turn);
    this.#draw();
  }

  #onError(frame) {
    // A connection that is refused, or ended, for want of a token says so by its close code.
    if (!frame.code.startsWith("auth.")) this.#notice(`${frame.code}: ${frame.message}`);
    else if (frame.code === "auth.required" && this.wire.state === State.OPEN) {
      this.#notice(EXPIRING, "Enter a new token", () => this.token.ask(EXPIRING));
    }
  }

  /** The stream cannot be read.  If that passes, ask again; if not, keep the part that is here. */
  #streamFailed({ code, message, retryable, retry_after_ms }) {
    const turn = this.#running;
    if (turn === null) return;
    if (retryable) setTimeout(() => this.#subscribe(), (retry_after_ms ?? 0) + Math.random() * ASK_AGAIN_MS);
    else this.#finish(turn, { code, message, retryable });
    this.#changed();
  }

  #finish(turn, error = null) {
    turn.phase = Phase.ENDED;
    turn.error = error;
    this.#meter.catchUp(0);
    this.#changed();
    const failure = error ?? turn.stream?.end?.error;
    const how = failure ? `Failed. ${failure.message}` : turn.stopping ? "Stopped." : "The answer is complete.";
    this.speaker.finish(answerOf(turn), how);
  }

  // ------------------------------------------------------------------ what is shown

  #rebuild() {
    $("log").replaceChildren();
    this.#views = [];
    for (const turn of this.#turns) this.#addView(turn);
    this.#changed();
    if (this.#turns.length) this.end.goToEnd();
  }

  #addView(turn) {
    const view = new TurnView(turn, () => this.#askAgain());
    this.#views.push(view);
    $("log").append(view.root);
    // The one before can no longer be asked again.
    if (this.#views.length > 1) this.#show(this.#views.length - 2);
    this.#show(this.#views.length - 1);
  }

  #show(index) {
    const turn = this.#turns[index];
    const rate = this.#meter.perSecond(performance.now(), turn.stream?.pieces ?? 0);
    this.#views[index].show(turn, { now: Date.now(), rate, isLast: index === this.#turns.length - 1 });
  }

  /** Something but the text changed: store it, and set the controls. */
  #changed() {
    this.#save();
    this.#controls();
    this.#draw();
  }

  #controls() {
    const running = this.#running !== null;
    $("welcome").hidden = this.#turns.length > 0;
    $("send").hidden = running;
    $("send").disabled = this.settings.model === "";
    $("stop").hidden = !running;
    $("stop").disabled = this.#running?.stopping ?? false;
    $("new-chat").disabled = this.#turns.length === 0;
    clearInterval(this.#ticking);
    if (running) this.#ticking = setInterval(() => this.#draw(), TICK_EVERY_MS);
  }

  /** Bring the last turn up to date with the next frame of the screen. */
  #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      const turn = this.#last;
      if (turn === null) return;
      this.#show(this.#turns.length - 1);
      this.end.keep();
      if (turn.phase === Phase.ENDED) return;
      const now = performance.now();
      this.speaker.follow(answerOf(turn), now);
      if (now - this.#savedAt > SAVE_EVERY_MS) this.#save();
    });
  }

  #save() {
    this.#savedAt = performance.now();
    save(sessionStorage, this.#turns);
  }

  #notice(text, action = "", act = () => this.#connectNow()) {
    this.#act = act;
    $("notice").hidden = text === "";
    $("notice-text").textContent = text;
    $("notice-action").hidden = action === "";
    $("notice-action").textContent = action;
  }
}

new Page();
