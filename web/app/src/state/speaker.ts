// An answer for the ear: in whole sentences, every few seconds, politely, and never twice.

const EVERY_MS = 4_000;
const SENTENCE_ENDS = [". ", "! ", "? ", "\n"];

export class Speaker {
  readonly #say: (text: string) => void;
  readonly #everyMs: number;
  #spokenAt = 0;
  #spoken = 0;

  /** `say` puts a text where a screen reader reads it aloud. */
  constructor(say: (text: string) => void, everyMs = EVERY_MS) {
    this.#say = say;
    this.#everyMs = everyMs;
  }

  /** Begin with another text, of which the first `spoken` characters need not be said. */
  begin(spoken = 0): void {
    this.#spoken = spoken;
  }

  /** The answer is `text` so far. */
  follow(text: string, now: number): void {
    if (text.length < this.#spoken) this.#spoken = 0;
    if (text.length === this.#spoken || now - this.#spokenAt < this.#everyMs) return;
    const fresh = text.slice(this.#spoken);
    const upto = Math.max(...SENTENCE_ENDS.map((mark) => fresh.lastIndexOf(mark))) + 1;
    if (upto === 0) return;
    this.#spokenAt = now;
    this.#spoken += upto;
    this.#say(fresh.slice(0, upto));
  }

  /** The answer ended as `text`; `how` is said behind what is left of it. */
  finish(text: string, how: string): void {
    this.#say(`${text.slice(this.#spoken)} ${how}`.trim());
    this.#spoken = text.length;
  }
}
