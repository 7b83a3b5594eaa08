// How much of an answer had come at which moment, for the plot of its speed.
//
// A sample is kept at most every 50 ms.  An answer may run for an hour: when there are too many, every second one is
// let go and the distance doubles, so that the whole answer stays in the picture.

export interface Sample {
  readonly t: number; // ms since the question was sent
  readonly pieces: number; // entries with content so far, about one a token
}

const EVERY_MS = 50;
const SAMPLES_MOST = 2_000;
const WINDOW_MS = 3_000;
const SHORTEST_MS = 300; // a rate over less than this says nothing

export class Samples {
  #samples: Sample[] = [];
  #everyMs = EVERY_MS;
  #newest: Sample = { t: 0, pieces: 0 };

  /** The answer has `pieces` at `t`.  Where nothing has come since the last note, that is no news. */
  note(t: number, pieces: number): void {
    if (pieces === this.#newest.pieces) return;
    this.#newest = { t, pieces };
    const last = this.#samples.at(-1);
    if (last !== undefined && t - last.t < this.#everyMs) return;
    this.#samples.push(this.#newest);
    if (this.#samples.length <= SAMPLES_MOST) return;
    this.#samples = this.#samples.filter((_, place) => place % 2 === 0);
    this.#everyMs *= 2;
  }

  /** Oldest first; the newest note is always among them. */
  get all(): readonly Sample[] {
    const last = this.#samples.at(-1);
    return last === undefined || last.t === this.#newest.t ? this.#samples : [...this.#samples, this.#newest];
  }

  /** Pieces a second over the last three seconds, or null while too little was seen. */
  rateAt(t: number): number | null {
    const from = this.#samples.find((sample) => sample.t >= t - WINDOW_MS);
    if (from === undefined || t - from.t < SHORTEST_MS) return null;
    return (Math.max(0, this.#newest.pieces - from.pieces) * 1_000) / (t - from.t);
  }
}
