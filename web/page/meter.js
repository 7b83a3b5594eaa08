// Live figures of an answer: how many pieces a second are coming in right now.
//
// Only what arrives as it is made counts.  After a reload or a reconnect the server first sends what it has (entries up
// to `tail`), as fast as it can; a rate that counted those would be nonsense.  Times are milliseconds of one clock.

const WINDOW_MS = 3_000;
const SAMPLES_MOST = 64;
const SAMPLE_EVERY_MS = 100;
const SHORTEST_MS = 300; // a rate over less than this says nothing

export class Meter {
  #samples = []; // {at, pieces}: oldest first
  #historyUpto = 0;

  /** Entries up to `tail` are history; forget the rate so far. */
  catchUp(tail) {
    this.#historyUpto = tail;
    this.#samples = [];
  }

  /** The stream holds `pieces` and stands at `offset` now. */
  note(now, pieces, offset) {
    if (offset < this.#historyUpto) return;
    const last = this.#samples.at(-1);
    if (last !== undefined && now - last.at < SAMPLE_EVERY_MS) return;
    this.#samples.push({ at: now, pieces });
    while (this.#samples.length > SAMPLES_MOST || this.#samples[0].at < now - WINDOW_MS) this.#samples.shift();
  }

  /** Pieces a second over the last seconds, or null while too little was seen. */
  perSecond(now, pieces) {
    const first = this.#samples[0];
    if (first === undefined || now - first.at < SHORTEST_MS) return null;
    return ((pieces - first.pieces) * 1000) / (now - first.at);
  }
}
