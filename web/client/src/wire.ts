// The connection: opened again for as long as somebody wants it, whatever carries it.
//
// A Wire sends commands and hands on every frame; it knows nothing of streams.  What it knows is when a connection is
// dead, when to come back, and when not to.  First connection and every other one are the same path: `hello` carries
// the positions to resume.
//
//            open()                    welcome
//   closed ---------> connecting --------------------> open
//                       ^   |  lost                      |  lost, goaway
//                       |   v                            v
//                       waiting <------------------------+          refused: 45xx; only open() leaves it
//
//   what happens                        state          becomes      and
//   open()                              all but open   connecting   at once
//   welcome                             connecting     open
//   no welcome within 10 s, or 5        connecting     waiting      routes.ts may choose another transport
//   nothing heard for 2 heartbeats      open           waiting      a dead network never answers a closing handshake
//   no answer to a probe within 3 s     open           waiting      wake() probes: the network or the page is back
//   wake()                              waiting        connecting   at once, but not before `retry_after_ms`
//   goaway                              open           connecting   at a random time within `after_ms`; what is under
//                                                                   way may end first
//   close 4500 to 4999, 1009            all            refused      4501: once more where a function has another token
//   any other close                     all            waiting      full jitter below 0.25 s, doubling to 15 s
//   close()                             all            closed
//
// Replies are handed over before the next frame is looked at: what follows a `subscribed` belongs behind it.

import { SETTLED_MS, backoffMs } from "./backoff.ts";
import type { Carrier, Carry } from "./carrier.ts";
import { bytesOf } from "./carrier.ts";
import { CommandError, lost } from "./errors.ts";
import type { Command, Frame, HelloCommand, Reply, ReplyTo, Resume, Welcome } from "./frames.ts";
import type { ConnectionState, FrameSeen, StateChange, Transport } from "./options.ts";
import type { Routes } from "./routes.ts";
import type { Token } from "./token.ts";

const WELCOME_WITHIN_MS = 10_000;
const TRIED_FOR_MS = 5_000; // the same, while it is not known whether any WebSocket comes through
const PROBE_WITHIN_MS = 3_000; // who wakes up does not wait two heartbeats to learn that the socket is dead
const WATCH_EVERY_MS = 1_000;
const COMMANDS_MOST = 64; // under way, until a welcome says otherwise
const FRAME_BYTES = 1_048_576;
const LEAVE_AGAIN_MS = 100;
const CLOSE_TOO_BIG = 1009; // WebSocket's own word for 4509
const CLOSE_EXPIRED = 4005;
const CLOSE_UNAUTHORIZED = 4501;
const CLOSE_LOST = 1006;
const CLOSE_RESTART = 1012;

type Timer = ReturnType<typeof setTimeout>;
export type Answered = (reply: Reply | null, error: CommandError | null) => void;
type Why = "required" | "expiring" | "expired" | "refused";

export interface WireOptions {
  carriers: Record<Transport, Carry | null>;
  routes: Routes;
  token: Token;
  /** Nothing is opened before; it does not fail. */
  ready: Promise<void> | null;
  name: string;
  random: () => number;
  /** The places that a new connection goes on from. */
  resume: () => Resume[];
  /** Every frame that answers no command. */
  onFrame: (frame: Frame) => void;
  onState: (change: StateChange) => void;
  onToken: (why: Why) => void;
  /** Every frame that passes, or null where nobody looks. */
  seen: () => ((seen: FrameSeen) => void) | null;
}

/** Whether a close code tells the client to stay away. */
export function isFinal(closeCode: number): boolean {
  return (closeCode >= 4500 && closeCode <= 4999) || closeCode === CLOSE_TOO_BIG;
}

export class Wire {
  state: ConnectionState = "closed";
  transport: Transport | null = null;
  welcome: Welcome | null = null;
  #options: WireOptions;
  #round = 0; // which connection is the one: what another one says is not heard
  #carrier: Carrier | null = null;
  #attempt = 0;
  #retryTimer: Timer | undefined;
  #goawayTimer: Timer | undefined;
  #watchTimer: Timer | undefined;
  #notBefore = 0;
  #openedAt = 0;
  #heardAt = 0;
  #silenceMs = WELCOME_WITHIN_MS; // how long nothing may be heard
  #probing = false;
  #waitAtLeastMs = 0; // what an error frame asked for just before the close
  #nextId = 1;
  #pending = new Map<string | number, Answered>();
  #backlog: (() => void)[] = []; // commands that wait for room

  constructor(options: WireOptions) {
    this.#options = options;
  }

  // ------------------------------------------------------------------ what its owner wants

  /** Connect, or connect at once instead of waiting longer. */
  open(): void {
    if (this.state === "connecting" || this.state === "open") return;
    clearTimeout(this.#retryTimer);
    const round = ++this.#round;
    const now = performance.now();
    this.#openedAt = now;
    this.#heardAt = now;
    this.#probing = false;
    this.#waitAtLeastMs = 0;
    this.#watchTimer = setInterval(() => this.#watch(), WATCH_EVERY_MS);
    this.transport = this.#options.routes.next(now);
    this.#silenceMs = this.#options.routes.isTrying ? TRIED_FOR_MS : WELCOME_WITHIN_MS;
    this.#change("connecting");
    this.#withToken(round, (token) => this.#carry(round, token));
  }

  /** Lose the connection, as if the network had: what follows is what follows then. */
  drop(): void {
    if (this.state === "connecting" || this.state === "open") this.#lost(CLOSE_LOST, "dropped here");
  }

  /** Close for good; `open()` starts again. */
  close(): void {
    this.#letGo();
    clearTimeout(this.#retryTimer);
    this.#change("closed");
  }

  /** The page or the network is back: connect at once, or make sure that the open connection is alive. */
  wake(): void {
    if (this.state === "waiting" && performance.now() >= this.#notBefore) this.open();
    else this.probe();
  }

  /** Make sure that an open connection is alive. */
  probe(): void {
    if (this.state !== "open" || this.#probing) return;
    this.#probing = true;
    this.#heardAt = performance.now();
    this.#silenceMs = PROBE_WITHIN_MS;
    this.send({ type: "ping" });
  }

  /** Show a new token.  A connection to come shows it in its hello. */
  async renew(token: string): Promise<void> {
    if (this.state === "open") await this.request({ type: "auth", token });
    this.#options.token.replace(token);
  }

  // ------------------------------------------------------------------ commands

  /** Send a command without waiting for its reply.  False where nothing was sent: no connection, or it is too large. */
  send(command: Command): boolean {
    return this.#send(command) === null;
  }

  /** Send a command, once there is room; `answered` hears the reply before any frame behind it, or why none comes. */
  ask(command: Command, answered: Answered): void {
    if (this.state === "open" && !this.#hasRoom) {
      this.#backlog.push(() => this.ask(command, answered));
      return;
    }
    const id = this.#nextId++;
    const error = this.#send({ ...command, id });
    if (error === null) this.#pending.set(id, answered);
    else answered(null, error);
  }

  /** Send a command; the reply comes as the promise's value, a failure as CommandError. */
  request<C extends Command>(command: C): Promise<ReplyTo<C>> {
    return new Promise((resolve, reject) => {
      this.ask(command, (reply, error) => (error === null ? resolve(reply as ReplyTo<C>) : reject(error)));
    });
  }

  /** Whether the server takes one more command at a time. */
  get #hasRoom(): boolean {
    return this.#pending.size < (this.welcome?.limits?.commands ?? COMMANDS_MOST);
  }

  #send(command: Command): CommandError | null {
    const carrier = this.#carrier;
    if (this.state !== "open" || carrier === null) return lost("There is no connection.");
    const encoded = carrier.encode(command);
    const most = this.welcome?.limits?.frame_bytes ?? FRAME_BYTES;
    const bytes = bytesOf(encoded, most);
    if (bytes + carrier.overhead > most) {
      return new CommandError({ code: "protocol.too_large", message: "This is longer than the server takes." });
    }
    carrier.send(encoded);
    this.#see("out", command, bytes);
    return null;
  }

  // ------------------------------------------------------------------ the connection

  /** Go on with a token, at once where there is one at once. */
  #withToken(round: number, next: (token: string | null) => void): void {
    const failed = (error: unknown) => {
      if (round === this.#round) this.#over(CLOSE_LOST, `no token: ${String(error)}`);
    };
    try {
      const { ready, token: source } = this.#options;
      const token = ready === null ? source.fresh() : ready.then(() => source.fresh());
      if (token instanceof Promise) token.then((value) => round === this.#round && next(value), failed);
      else next(token);
    } catch (error) {
      failed(error);
    }
  }

  #carry(round: number, token: string | null): void {
    const { carriers, name, resume, routes } = this.#options;
    this.#options.token.show(token);
    const hello = (): HelloCommand => ({ type: "hello", client: name, ...(token ? { token } : {}), resume: resume() });
    const isNow = () => round === this.#round;
    const carry = carriers[this.transport ?? "websocket"];
    try {
      if (carry === null) throw new Error("it is not to be had here");
      this.#carrier = carry(hello, {
        frame: (frame, bytes) => isNow() && this.#heard(frame, bytes),
        alive: () => isNow() && this.#alive(),
        closed: (code, reason, waitMs) => isNow() && this.#lost(code, reason, waitMs),
        said: (command, bytes) => isNow() && this.#see("out", command, bytes),
      });
    } catch (error) {
      routes.failed(this.transport ?? "websocket");
      this.#over(CLOSE_LOST, String(error));
    }
  }

  #alive(): void {
    this.#heardAt = performance.now();
    if (!this.#probing) return;
    this.#probing = false;
    this.#silenceMs = 2 * (this.welcome?.heartbeat_ms ?? WELCOME_WITHIN_MS);
  }

  #heard(frame: Frame, bytes: number): void {
    this.#alive();
    this.#see("in", frame, bytes);
    const answered = frame.id === undefined ? undefined : this.#pending.get(frame.id);
    // An error that answers no command may be the reason of the close that follows.
    this.#waitAtLeastMs = frame.type === "error" && frame.id === undefined ? (frame.retry_after_ms ?? 0) : 0;
    if (frame.id !== undefined && answered !== undefined) {
      this.#pending.delete(frame.id);
      if (frame.type === "error") answered(null, new CommandError(frame));
      else answered(frame as Reply, null);
      if (this.#hasRoom) this.#backlog.shift()?.();
    } else if (frame.type === "welcome") {
      this.#welcomed(frame);
    } else if (frame.type === "goaway") {
      const until = performance.now() + frame.after_ms;
      clearTimeout(this.#goawayTimer);
      this.#goawayTimer = setTimeout(() => this.#leave(until), this.#options.random() * frame.after_ms);
    } else if (frame.type === "error" && frame.code === "auth.required" && frame.retryable && !frame.stream) {
      this.#expiring();
    } else if (frame.type !== "heartbeat" && frame.type !== "pong") {
      this.#options.onFrame(frame);
    }
  }

  #welcomed(welcome: Welcome): void {
    const { routes, token } = this.#options;
    routes.worked(this.transport ?? "websocket", performance.now());
    token.accepted();
    this.welcome = welcome;
    this.#silenceMs = 2 * welcome.heartbeat_ms;
    this.#change("open");
  }

  /** The token's time is nearly up: a function is asked for another one, which goes out in band. */
  #expiring(): void {
    const { token, onToken } = this.#options;
    if (!token.isAsked) {
      onToken("expiring");
      return;
    }
    this.#withToken(this.#round, (fresh) => {
      if (fresh === null || fresh === token.shown) onToken("expiring");
      else this.renew(fresh).catch(() => onToken("expiring"));
    });
  }

  #watch(): void {
    if (performance.now() - this.#heardAt > this.#silenceMs) this.#lost(CLOSE_LOST, "nothing was heard");
  }

  /** Somewhere else, as the server wishes; but for a moment not while commands are under way. */
  #leave(until: number): void {
    if (this.#pending.size > 0 && performance.now() < until) {
      this.#goawayTimer = setTimeout(() => this.#leave(until), LEAVE_AGAIN_MS);
      return;
    }
    // Whoever was sent away just after the welcome got to the same server again: no hurry to meet it a third time.
    const settled = this.#settled;
    if (!settled) this.#over(CLOSE_RESTART, "going away");
    else {
      this.#letGo();
      this.state = "waiting"; // for no time at all
      this.open();
    }
  }

  #lost(code: number, reason: string, waitMs = 0): void {
    const { token, onToken, routes } = this.#options;
    if (this.state === "connecting") routes.failed(this.transport ?? "websocket");
    const waitAtLeastMs = Math.max(waitMs, this.#waitAtLeastMs);
    if (code === CLOSE_UNAUTHORIZED) {
      this.#unauthorized(reason);
    } else if (isFinal(code)) {
      this.#letGo();
      this.#change("refused", { code, reason });
    } else {
      this.#over(code, reason, waitAtLeastMs);
      if (code === CLOSE_EXPIRED && !token.isAsked) onToken("expired");
    }
  }

  /** A refused token is taken back once, where there is another one. */
  #unauthorized(reason: string): void {
    const { token, onToken } = this.#options;
    const shown = token.shown;
    const refuse = () => {
      this.#letGo();
      this.#change("refused", { code: CLOSE_UNAUTHORIZED, reason });
      onToken(shown ? "refused" : "required");
    };
    if (!token.refused()) {
      refuse();
      return;
    }
    this.#letGo();
    this.#withToken(this.#round, (fresh) => {
      if (fresh === null || fresh === shown) refuse();
      else this.#over(CLOSE_UNAUTHORIZED, reason);
    });
  }

  /** A connection is over; there will be another one. */
  #over(code: number, reason: string, waitAtLeastMs = 0): void {
    if (this.#settled) this.#attempt = 0;
    this.#letGo();
    const inMs = waitAtLeastMs + backoffMs(this.#attempt++, this.#options.random);
    this.#notBefore = performance.now() + waitAtLeastMs;
    this.#retryTimer = setTimeout(() => this.open(), inMs);
    this.#change("waiting", { inMs, code, reason });
  }

  get #settled(): boolean {
    return this.state === "open" && performance.now() - this.#openedAt > SETTLED_MS;
  }

  #letGo(): void {
    this.#round += 1;
    clearInterval(this.#watchTimer);
    clearTimeout(this.#goawayTimer);
    const carrier = this.#carrier;
    this.#carrier = null;
    carrier?.close();
    if (this.state === "open") this.state = "waiting"; // whoever hears of a lost reply finds no connection
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const answered of pending) answered(null, lost());
    for (const ask of this.#backlog.splice(0)) ask(); // to hear that there is no connection
  }

  #change(state: ConnectionState, detail: Partial<StateChange> = {}): void {
    this.state = state;
    if (state !== "connecting" && state !== "open") this.transport = null;
    this.#options.onState({ ...detail, state, transport: this.transport });
  }

  #see(direction: "in" | "out", frame: Frame | Command, bytes: number): void {
    const shown = "token" in frame ? { ...frame, token: "…" } : frame;
    this.#options.seen()?.({ direction, frame: shown, at: performance.now(), bytes });
  }
}
