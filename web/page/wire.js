// The connection: one WebSocket, opened again for as long as the page lives.
//
// A Wire sends commands and hands every frame to whoever made it; it knows nothing of streams.  What it knows is when
// a connection is dead (nothing heard for twice the heartbeat, or no answer to a probe when the page wakes up), when to
// come back (full jitter, 0.25 s doubling to 15 s, at once when the network or the page returns) and when not to
// (close codes 4500 to 4999).  First connect and reconnect are the same path: `hello` carries the positions to resume.
//
//            open()                    welcome
//   closed ---------> connecting --------------------> open
//                       ^   |  lost                      |  lost, goaway
//                       |   v                            v
//                       waiting <------------------------+          refused: 45xx; only open() leaves it

export const SUBPROTOCOL = "everstream.v1.json";
const BACKOFF_FIRST_MS = 250;
const BACKOFF_MOST_MS = 15_000;
const WELCOME_WITHIN_MS = 10_000;
const PROBE_WITHIN_MS = 3_000; // a page that wakes up does not wait two heartbeats to learn that its socket is dead
const SETTLED_MS = 5_000; // a connection that lived this long makes the next wait start small again
const WATCH_EVERY_MS = 1_000;
const PENDING_MOST = 64;
const CLOSE_TOO_BIG = 1009; // WebSocket's own word for 4509

export const State = Object.freeze({
  CLOSED: "closed",
  CONNECTING: "connecting",
  OPEN: "open",
  WAITING: "waiting",
  REFUSED: "refused",
});

/** A command was answered by an error, or could not be answered (`code` "connection.lost": ask again). */
export class CommandError extends Error {
  constructor({ code, message, retryable = false, retry_after_ms = null }) {
    super(message);
    this.code = code;
    this.retryable = retryable;
    this.retry_after_ms = retry_after_ms;
  }
}

/** Whether a close code tells the client to stay away. */
export function isFinal(closeCode) {
  return (closeCode >= 4500 && closeCode <= 4999) || closeCode === CLOSE_TOO_BIG;
}

/** Milliseconds to wait before attempt number `attempt` (0 is the first): anywhere below a doubling ceiling. */
export function backoffMs(attempt, random = Math.random) {
  return random() * Math.min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempt, 16));
}

/** The address of the WebSocket beside the page, whatever path prefix a proxy put before both. */
export function addressBeside(base) {
  const address = new URL("ws", base);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  address.search = "";
  address.hash = "";
  return address.href;
}

export class Wire {
  #url;
  #hello;
  #onFrame;
  #onState;
  #socket = null;
  #attempt = 0;
  #retryTimer = 0;
  #retryAt = 0;
  #goawayTimer = 0;
  #watchTimer = 0;
  #openedAt = 0;
  #heardAt = 0;
  #silenceMs = WELCOME_WITHIN_MS; // how long nothing may be heard
  #probing = false;
  #waitAtLeastMs = 0; // what an error frame asked for just before the close
  #nextId = 1;
  #pending = new Map(); // command id -> {resolve, reject}

  /**
   * `hello()` gives the fields of each hello (token, resume); `onFrame(frame)` gets every frame but heartbeats and
   * replies that a `request` waits for; `onState(state, {inMs, code, reason})` every change.
   */
  constructor({ url, hello, onFrame, onState }) {
    this.#url = url;
    this.#hello = hello;
    this.#onFrame = onFrame;
    this.#onState = onState;
    this.state = State.CLOSED;
    this.welcome = null;
  }

  /** Connect, or connect at once instead of waiting longer. */
  open() {
    if (this.#socket !== null) return;
    clearTimeout(this.#retryTimer);
    const now = performance.now();
    this.#openedAt = now;
    this.#heardAt = now;
    this.#silenceMs = WELCOME_WITHIN_MS;
    this.#probing = false;
    this.#waitAtLeastMs = 0;
    const socket = new WebSocket(this.#url, [SUBPROTOCOL]);
    this.#socket = socket;
    socket.onopen = () => {
      socket.send(JSON.stringify({ type: "hello", client: "everstream-page/1", ...this.#hello() }));
    };
    socket.onmessage = (message) => this.#heard(message.data);
    socket.onclose = (event) => this.#lost(event.code, event.reason);
    clearInterval(this.#watchTimer);
    this.#watchTimer = setInterval(() => this.#watch(), WATCH_EVERY_MS);
    this.#change(State.CONNECTING);
  }

  /** Close for good; `open()` starts again. */
  close() {
    this.#letGo();
    clearTimeout(this.#retryTimer);
    this.#change(State.CLOSED);
  }

  /** The page or the network is back: connect at once, or make sure that the open connection is alive. */
  wake() {
    if (this.state === State.WAITING) {
      this.open();
    } else if (this.state === State.OPEN && !this.#probing) {
      this.#probing = true;
      this.#heardAt = performance.now();
      this.#silenceMs = PROBE_WITHIN_MS;
      this.send({ type: "ping" });
    }
  }

  /** Send a command without waiting for its reply.  False when there is no connection: nothing was sent. */
  send(command) {
    if (this.state !== State.OPEN) return false;
    this.#socket.send(JSON.stringify(command));
    return true;
  }

  /** Send a command; the reply comes as the promise's value, a failure as CommandError. */
  request(command) {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      if (this.#pending.size >= PENDING_MOST || !this.send({ ...command, id })) {
        reject(new CommandError({ code: "connection.lost", message: "There is no connection.", retryable: true }));
      } else {
        this.#pending.set(id, { resolve, reject });
      }
    });
  }

  #heard(data) {
    this.#heardAt = performance.now();
    if (this.#probing) {
      this.#probing = false;
      this.#silenceMs = 2 * this.welcome.heartbeat_ms;
    }
    const frame = JSON.parse(data);
    if (frame.type === "heartbeat" || frame.type === "pong") return;
    if (frame.type === "welcome") {
      this.welcome = frame;
      this.#silenceMs = 2 * frame.heartbeat_ms;
      this.#change(State.OPEN);
    } else if (frame.type === "goaway") {
      clearTimeout(this.#goawayTimer);
      this.#goawayTimer = setTimeout(() => this.#leave(), Math.random() * frame.after_ms);
    }
    // An error that answers no command may be the reason of the close that follows.
    this.#waitAtLeastMs = frame.type === "error" && frame.id === undefined ? (frame.retry_after_ms ?? 0) : 0;
    const waiting = this.#pending.get(frame.id);
    if (waiting === undefined) {
      this.#onFrame(frame);
      return;
    }
    this.#pending.delete(frame.id);
    if (frame.type === "error") waiting.reject(new CommandError(frame));
    else waiting.resolve(frame);
  }

  get #settled() {
    return this.state === State.OPEN && performance.now() - this.#openedAt > SETTLED_MS;
  }

  #watch() {
    if (performance.now() - this.#heardAt <= this.#silenceMs) return;
    // A dead network never answers a closing handshake: do not wait for `onclose`.
    this.#letGo();
    this.#comeBack(1006, "nothing was heard");
  }

  #leave() {
    // Whoever was sent away just after the welcome got to the same server again: no hurry to meet it a third time.
    const settled = this.#settled;
    this.#letGo();
    if (settled) this.open();
    else this.#comeBack(1012, "going away");
  }

  #lost(code, reason) {
    const waitAtLeastMs = this.#waitAtLeastMs;
    this.#letGo();
    if (isFinal(code)) this.#change(State.REFUSED, { code, reason });
    else this.#comeBack(code, reason, waitAtLeastMs);
  }

  #comeBack(code, reason, waitAtLeastMs = 0) {
    if (this.#settled) this.#attempt = 0;
    const inMs = waitAtLeastMs + backoffMs(this.#attempt++);
    this.#retryTimer = setTimeout(() => this.open(), inMs);
    this.#change(State.WAITING, { inMs, code, reason });
  }

  #letGo() {
    clearInterval(this.#watchTimer);
    clearTimeout(this.#goawayTimer);
    const socket = this.#socket;
    this.#socket = null;
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { reject } of pending) {
      reject(new CommandError({ code: "connection.lost", message: "The connection was lost.", retryable: true }));
    }
  }

  #change(state, detail = {}) {
    this.state = state;
    this.#onState(state, detail);
  }
}
