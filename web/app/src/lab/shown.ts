// The rows that are wanted, kept while rows come and go: a list of 2,000 is looked through when somebody asks for
// something else, not at every frame of a thousand a second.
//
// Rows are numbered in the order they came.  A new one is tried alone; what the ring has dropped is dropped here by its
// number.  While it is held (somebody has pressed Pause), what is shown stands still and what comes is only counted.

import { ALL, matches } from "./frames.ts";
import type { Row, Wanted } from "./frames.ts";
import type { Ring } from "./ring.ts";

const CUT_AFTER = 1_000; // gone rows at the front before the array is made anew

export class Shown {
  readonly #ring: Ring<Row>;
  #wanted: Wanted = ALL;
  #rows: Row[] = [];
  #first = 0;
  #held: readonly Row[] | null = null; // all rows there were at that moment
  #sinceHeld = 0;

  constructor(ring: Ring<Row>) {
    this.#ring = ring;
  }

  get wanted(): Wanted {
    return this.#wanted;
  }

  get held(): boolean {
    return this.#held !== null;
  }

  /** Rows that came since it is held. */
  get sinceHeld(): number {
    return this.#sinceHeld;
  }

  get length(): number {
    return this.#rows.length - this.#first;
  }

  at(index: number): Row | undefined {
    return index < 0 ? undefined : this.#rows[this.#first + index];
  }

  toArray(): Row[] {
    return this.#rows.slice(this.#first);
  }

  /** The place of row `n` in the list, or -1. */
  placeOf(n: number): number {
    const place = this.#rows.findIndex((row) => row.n === n);
    return place < this.#first ? -1 : place - this.#first;
  }

  /** `row` was added to the ring, which may have dropped some for it. */
  note(row: Row): void {
    if (this.#held !== null) {
      this.#sinceHeld += 1;
      return;
    }
    if (matches(row, this.#wanted)) this.#rows.push(row);
    const oldest = this.#ring.at(0)?.n ?? row.n;
    while (this.#first < this.#rows.length && (this.#rows[this.#first] as Row).n < oldest) this.#first += 1;
    if (this.#first >= CUT_AFTER) {
      this.#rows = this.#rows.slice(this.#first);
      this.#first = 0;
    }
  }

  want(wanted: Wanted): void {
    this.#wanted = wanted;
    this.#sift(this.#held ?? this.#ring.toArray());
  }

  hold(): void {
    this.#held ??= this.#ring.toArray();
  }

  release(): void {
    this.#held = null;
    this.#sinceHeld = 0;
    this.#sift(this.#ring.toArray());
  }

  /** The ring was emptied. */
  clear(): void {
    if (this.#held !== null) this.#held = [];
    this.#sinceHeld = 0;
    this.#sift([]);
  }

  #sift(rows: readonly Row[]): void {
    this.#rows = rows.filter((row) => matches(row, this.#wanted));
    this.#first = 0;
  }
}
