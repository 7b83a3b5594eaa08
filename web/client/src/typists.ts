// Who types in a session just now.  It stands for a while, unless it is repeated or taken back.

import type { TypingShown } from "./frames.ts";

const STANDS_MS = 6_000;

export class Typists {
  #changed: () => void;
  #timers = new Map<string, ReturnType<typeof setTimeout>>(); // user -> what ends it

  constructor(changed: () => void) {
    this.#changed = changed;
  }

  get users(): string[] {
    return [...this.#timers.keys()];
  }

  take(id: string, { session, user, typing }: Pick<TypingShown, "session" | "user" | "typing">): void {
    if (session !== id) return;
    clearTimeout(this.#timers.get(user));
    this.#timers.delete(user);
    const stop = () => this.take(id, { session, user, typing: false });
    if (typing) this.#timers.set(user, setTimeout(stop, STANDS_MS));
    this.#changed();
  }

  forget(): void {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }
}
