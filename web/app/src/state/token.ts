// The token: what the page shows to be let in.
//
// It is kept in sessionStorage, which is a tab's own and ends with it.  It goes into `hello` and `auth` and nowhere
// else: into no address, no form that is sent, no log.

import { keep, kept, type Store } from "./storage.ts";

const STORAGE_KEY = "everstream.token";

export const WANTED = "This server wants to know who uses it.";
export const REFUSED = "The server does not accept this token, or not any more. Enter another one.";
export const EXPIRED = "Your token has expired. Enter a new one, and everything goes on where it was.";
export const EXPIRING = "Your token expires soon. With a new one nothing is interrupted.";

export class Token {
  readonly #store: Store;
  #value: string;

  constructor(store: Store) {
    this.#store = store;
    this.#value = kept(store, STORAGE_KEY);
  }

  /** The token, or "" when there is none. */
  get value(): string {
    return this.#value;
  }

  keep(value: string): void {
    this.#value = value;
    keep(this.#store, STORAGE_KEY, value);
  }

  forget(): void {
    this.keep("");
  }
}
