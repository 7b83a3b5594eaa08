// Chance for tests: one number makes a whole course of events, so that a failure can be seen again.

export class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** A number from 0 to below `n`; a counter, well mixed, is chance enough. */
  below(n: number): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
    return ((mixed ^ (mixed >>> 16)) >>> 0) % n;
  }

  /** Whether something happens that does so once in `n` times. */
  once(n: number): boolean {
    return this.below(n) === 0;
  }

  one<T>(of: readonly T[]): T {
    const found = of[this.below(of.length)];
    if (found === undefined) throw new Error("there is nothing to choose from");
    return found;
  }

  some<T>(of: readonly T[], most: number): T[] {
    return of.length === 0 ? [] : Array.from({ length: this.below(most + 1) }, () => this.one(of));
  }
}
