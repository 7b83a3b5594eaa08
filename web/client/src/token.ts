// What the server knows the user by: a text, or a function that is asked before every connection.
//
// A refused token is taken back once: the function is asked anew, and where it has another one, that is tried.  A text
// is refused for good, until `renew` brings another.

import type { TokenSource } from "./options.ts";

export class Token {
  #source: TokenSource | undefined;
  #shown: string | null = null;
  #refused = false;

  constructor(source: TokenSource | undefined) {
    this.#source = source;
  }

  /** Whether there is anybody to ask for another one. */
  get isAsked(): boolean {
    return typeof this.#source === "function";
  }

  /** What was shown last. */
  get shown(): string | null {
    return this.#shown;
  }

  /** The token for a new connection; at once, or as a promise, as its source has it. */
  fresh(): string | null | Promise<string | null> {
    const source = this.#source;
    return typeof source === "function" ? source() : (source ?? null);
  }

  show(token: string | null): void {
    this.#shown = token;
  }

  /** A connection was made with what was shown. */
  accepted(): void {
    this.#refused = false;
  }

  /** What was shown is refused.  Whether another one may be had: that can be said once. */
  refused(): boolean {
    const again = this.isAsked && !this.#refused;
    this.#refused = true;
    return again;
  }

  /** A new one was entered.  A function is to give it from now on by itself. */
  replace(token: string): void {
    if (!this.isAsked) this.#source = token;
    this.#shown = token;
  }
}
