// Being let in: asks for a token when the server wants one, and shows it.
//
//   (let in) --required, refused, expired--> asking --entered--> (connects with it)
//                                             |  `--left--> a notice offers to enter one
//   (let in) --expiring--> a notice; entered, it is shown to the open connection (`auth`), which goes on

import { CommandError, type Client } from "@everstream/client";

import { Changes } from "./changes.ts";
import type { Notices } from "./notices.ts";
import { EXPIRED, EXPIRING, REFUSED, type Token, WANTED } from "./token.ts";

export const CLOSE_UNAUTHORIZED = 4501;
const CLOSE_EXPIRED = 4005;

type Door = Pick<Client, "on" | "open" | "close" | "renew" | "state">;

export class Access {
  readonly #changes = new Changes();
  readonly on = this.#changes.on;
  readonly #client: Door;
  readonly #token: Token;
  readonly #notices: Notices;
  /** Why a token is asked for, or what is wrong with the one that was entered; null while none is asked for. */
  why: string | null = null;
  /** The server is looking at one. */
  checking = false;

  constructor({ client, token, notices }: { client: Door; token: Token; notices: Notices }) {
    this.#client = client;
    this.#token = token;
    this.#notices = notices;
    client.on("token", ({ why }) => {
      if (why === "expiring") notices.say(EXPIRING, "Enter a new token", () => this.ask(EXPIRING));
      else this.#letOut(why === "expired" ? EXPIRED : token.value === "" ? WANTED : REFUSED);
    });
    // It would come back and show the same token.
    client.on("state", ({ code }) => {
      if (code === CLOSE_EXPIRED) this.#letOut(EXPIRED);
    });
  }

  get has(): boolean {
    return this.#token.value !== "";
  }

  ask(why: string): void {
    this.why = why;
    this.#changes.tell();
  }

  async enter(entered: string): Promise<void> {
    const token = entered.trim();
    if (token === "" || this.checking) return;
    this.checking = true;
    this.#changes.tell();
    const wrong = await this.#tried(token);
    this.checking = false;
    if (this.why !== null && wrong === "") {
      this.#token.keep(token);
      this.why = null;
      this.connect();
    } else if (this.why !== null) {
      this.why = wrong;
    }
    this.#changes.tell();
  }

  /** Nobody wants to enter one now. */
  leave(): void {
    this.why = null;
    this.#changes.tell();
    const { state } = this.#client;
    if (state === "closed" || state === "refused") {
      this.#notices.say(WANTED, "Enter a token", () => this.ask(WANTED));
    }
  }

  connect(): void {
    this.#notices.clear();
    this.#client.open();
  }

  #letOut(why: string): void {
    this.#client.close(); // no use in coming back without another token
    this.#token.forget();
    this.#notices.clear();
    this.ask(why);
  }

  /** What is wrong with a token, or "".  A connection to come learns it by `hello`. */
  async #tried(token: string): Promise<string> {
    if (this.#client.state !== "open") return "";
    try {
      await this.#client.renew(token);
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      if (error.code !== "connection.lost") return `This token does not do: ${error.message}.`;
    }
    return "";
  }
}
