// The list of sessions, newest first, a page at a time.

import { CommandError, type Client, type SessionInfo, type SessionState } from "@everstream/client";

import { Changes } from "./changes.ts";

const PAGE = 50;

type Lister = Pick<Client, "sessions">;

export class Listing {
  readonly #changes = new Changes();
  readonly on = this.#changes.on;
  readonly #client: Lister;
  #asked = 0;
  sessions: readonly SessionInfo[] = [];
  /** From where there are more, or null. */
  next: string | null = null;
  /** Why there is none, or "". */
  failure = "";
  /** Whether an answer has come: before that, an empty list says nothing. */
  known = false;

  constructor(client: Lister) {
    this.#client = client;
  }

  /** Load the newest ones, or those that follow `before`.  What is shown stays until they are here. */
  async load(before: string | null = null): Promise<void> {
    const asked = ++this.#asked;
    try {
      const { sessions, next } = await this.#client.sessions({ limit: PAGE, ...(before !== null && { before }) });
      if (asked !== this.#asked) return;
      const fresh = new Set(sessions.map(({ session }) => session));
      const held = before === null ? [] : this.sessions.filter(({ session }) => !fresh.has(session));
      this.sessions = [...held, ...sessions];
      this.next = next;
      this.failure = "";
      this.known = true;
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      if (error.code === "connection.lost" || error.code === "connection.closed") return;
      this.failure = error.message;
    }
    this.#changes.tell();
  }

  /** Nothing is known of them any more: somebody else is here. */
  clear(): void {
    this.#asked += 1;
    this.sessions = [];
    this.next = null;
    this.failure = "";
    this.known = false;
    this.#changes.tell();
  }

  /** The open session's title is newer than the list. */
  name({ id, opened, title }: SessionState): void {
    const place = this.sessions.findIndex(({ session }) => session === id);
    const listed = this.sessions[place];
    if (listed === undefined || !opened || listed.title === title) return;
    this.sessions = this.sessions.with(place, { ...listed, title });
    this.#changes.tell();
  }

  /** Those whose title has all words of `wanted`. */
  found(wanted: string): readonly SessionInfo[] {
    const words = wanted.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    if (words.length === 0) return this.sessions;
    return this.sessions.filter(({ title }) => {
      const name = (title || "Untitled").toLocaleLowerCase();
      return words.every((word) => name.includes(word));
    });
  }
}
