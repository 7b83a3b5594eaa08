// The last things that happened, bounded twice: by how many they are and by how much they hold.
//
// An array with a moving start: to add costs the same however full it is, and what is dropped is always the oldest.
// The newest is kept even where it alone is over the bound, so that what was just seen can be looked at.

export class Ring<T> {
  readonly #most: number;
  readonly #mostBytes: number;
  readonly #bytesOf: (item: T) => number;
  #items: T[] = [];
  #first = 0; // where the oldest lies
  #bytes = 0;
  #dropped = 0;

  constructor(most: number, mostBytes: number = Infinity, bytesOf: (item: T) => number = () => 0) {
    this.#most = most;
    this.#mostBytes = mostBytes;
    this.#bytesOf = bytesOf;
  }

  get length(): number {
    return this.#items.length - this.#first;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** How many had to go since the last `clear`. */
  get dropped(): number {
    return this.#dropped;
  }

  push(item: T): void {
    this.#items.push(item);
    this.#bytes += this.#bytesOf(item);
    while (this.length > this.#most || (this.#bytes > this.#mostBytes && this.length > 1)) this.#drop();
    // The gone ones' places are given back now and then, all at once: that makes a push cheap on average.
    if (this.#first > this.#most) {
      this.#items = this.#items.slice(this.#first);
      this.#first = 0;
    }
  }

  /** The item `index` places after the oldest; negative: before the end. */
  at(index: number): T | undefined {
    if (index >= 0) return this.#items[this.#first + index];
    return -index > this.length ? undefined : this.#items.at(index);
  }

  clear(): void {
    this.#items = [];
    this.#first = 0;
    this.#bytes = 0;
    this.#dropped = 0;
  }

  toArray(): T[] {
    return this.#items.slice(this.#first);
  }

  #drop(): void {
    const gone = this.#items[this.#first] as T;
    this.#bytes -= this.#bytesOf(gone);
    // The place stays until the array is cut; what lay in it does not.
    this.#items[this.#first] = undefined as T;
    this.#first += 1;
    this.#dropped += 1;
  }
}
