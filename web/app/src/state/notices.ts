// The one line that is said to the reader beside the conversation.  A new one takes the old one's place.

import { Changes } from "./changes.ts";

const MENTIONED_MS = 6_000;

export interface Notice {
  text: string;
  /** Whether something is wrong, or wants to be done. */
  kind: "alarm" | "word";
  /** What its button says, or "" where nothing is to be done. */
  action: string;
  act: () => void;
}

export class Notices {
  readonly #changes = new Changes();
  readonly on = this.#changes.on;
  #going: ReturnType<typeof setTimeout> | undefined;
  now: Notice | null = null;

  say(text: string, action = "", act: () => void = () => {}): void {
    this.#show({ text, kind: "alarm", action, act });
  }

  /** Say that all is well: it goes by itself. */
  mention(text: string): void {
    this.#show({ text, kind: "word", action: "", act: () => {} });
    this.#going = setTimeout(() => this.clear(), MENTIONED_MS);
  }

  clear(): void {
    clearTimeout(this.#going);
    if (this.now === null) return;
    this.now = null;
    this.#changes.tell();
  }

  /** A notice that wants nothing done has been read. */
  dismiss(): void {
    if (this.now?.action === "") this.clear();
  }

  #show(notice: Notice): void {
    clearTimeout(this.#going);
    this.now = notice;
    this.#changes.tell();
  }
}
