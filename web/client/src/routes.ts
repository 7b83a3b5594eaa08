// By which transport the next connection is tried.
//
// A WebSocket is what there should be.  Some networks let none through: the handshake fails, or nothing passes after
// it. So where two in a row bring no welcome, and none ever did, the next attempt goes over HTTP; where one did once,
// the server is more likely to be down, and it takes six.  What works is kept.  After five minutes over HTTP the next
// connection tries a WebSocket again.  Where HTTP brings no welcome either, the two take turns.

import type { Transport } from "./options.ts";

const TRIES = 2;
const TRIES_OF_WHAT_WORKED = 6;
const HTTP_FOR_MS = 5 * 60_000;

export class Routes {
  #mode: "auto" | Transport;
  #failures = 0; // of WebSockets in a row
  #hasWorked = false;
  #httpSince: number | null = null;

  constructor(mode: "auto" | Transport) {
    this.#mode = mode;
  }

  get #most(): number {
    return this.#hasWorked ? TRIES_OF_WHAT_WORKED : TRIES;
  }

  /** Whether there is another way, and none has worked yet. */
  get isTrying(): boolean {
    return this.#mode === "auto" && !this.#hasWorked && this.#httpSince === null;
  }

  next(now: number): Transport {
    if (this.#mode !== "auto") return this.#mode;
    if (this.#httpSince !== null && now - this.#httpSince < HTTP_FOR_MS) return "http";
    return this.#httpSince === null && this.#failures >= this.#most ? "http" : "websocket";
  }

  /** A welcome has come. */
  worked(transport: Transport, now: number): void {
    if (transport === "http") {
      this.#httpSince ??= now;
      return;
    }
    this.#hasWorked = true;
    this.#failures = 0;
    this.#httpSince = null;
  }

  /** No welcome has come. */
  failed(transport: Transport): void {
    this.#failures = transport === "http" ? this.#most - 1 : this.#failures + 1;
    this.#httpSince = null;
  }
}
