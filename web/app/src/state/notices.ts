// The one line that is said to the reader beside the conversation.  A new one takes the old one's place.

import { Changes } from "./changes.ts";

export interface Notice {
  text: string;
  /** What its button says, or "" where nothing is to be done. */
  action: string;
  act: () => void;
}

export class Notices {
  readonly #changes = new Changes();
  readonly on = this.#changes.on;
  now: Notice | null = null;

  say(text: string, action = "", act: () => void = () => {}): void {
    this.now = { text, action, act };
    this.#changes.tell();
  }

  clear(): void {
    if (this.now === null) return;
    this.now = null;
    this.#changes.tell();
  }

  /** A notice that wants nothing done has been read. */
  dismiss(): void {
    if (this.now?.action === "") this.clear();
  }
}
