// Questions where a place goes on.  Until the newest one is answered, entries of that place are not wanted: what
// follows it comes again behind the answer.

import type { CommandError } from "./errors.ts";
import { LOST } from "./errors.ts";
import type { Command, Reply } from "./frames.ts";
import type { Wire } from "./wire.ts";

export const ASK_AGAIN_MS = 2_000; // at most this long until what failed for the moment is asked again

export class Asking {
  #wire: Wire;
  #asked = new Map<string, symbol>();

  constructor(wire: Wire) {
    this.#wire = wire;
  }

  /** Whether an answer is on its way. */
  has(id: string): boolean {
    return this.#asked.has(id);
  }

  /** Nobody waits for any answer any more. */
  clear(): void {
    this.#asked.clear();
  }

  /** Ask.  Neither function is called where the connection is lost: the next welcome asks again. */
  ask(
    place: { id: string; waiting: boolean },
    command: Command,
    answered: (reply: Reply) => void,
    failed: (error: CommandError) => void,
  ): void {
    if (this.#wire.state !== "open") return;
    place.waiting = true;
    const mine = Symbol(place.id);
    this.#asked.set(place.id, mine);
    this.#wire.ask(command, (reply, error) => {
      if (this.#asked.get(place.id) !== mine) return;
      this.#asked.delete(place.id);
      if (error === null && reply !== null) answered(reply);
      else if (error !== null && error.code !== LOST) failed(error);
    });
  }
}

/** When to ask again what could not be answered for the moment. */
export function againInMs(error: CommandError): number {
  return (error.retry_after_ms ?? 0) + Math.random() * ASK_AGAIN_MS;
}
