// Live figures of an answer: how many pieces a second are coming in right now.
//
// Only what arrives as it is made counts.  After a reload or a reconnect the server first sends what it has (entries up
// to `tail`), as fast as it can; a rate that counted those would be nonsense.  Times are milliseconds of one clock.

const WINDOW_MS = 3_000;
const SAMPLES_MOST = 64;
const SAMPLE_EVERY_MS = 100;
const SHORTEST_MS = 300; // a rate over less than this says nothing
const HISTORY_PIECES = 200; // so many at once were not made just now

interface Sample {
  at: number;
  pieces: number;
}

/** What is looked at of a frame. */
interface Coming {
  type: string;
  tail?: number;
  after?: number;
  upto?: number;
}

export class Meter {
  #samples: Sample[] = []; // oldest first
  #historyUpto = 0;
  #begunAt = 0;

  /** `frame` has been taken into a stream, which holds `pieces` and stands at `offset` now. */
  take(frame: Coming, now: number, pieces: number, offset: number): void {
    const upto = frame.upto ?? 0;
    if (frame.type === "subscribed" || frame.type === "snapshot") this.catchUp(frame.tail ?? upto);
    else if (upto - (frame.after ?? upto) > HISTORY_PIECES) this.catchUp(upto);
    this.note(now, pieces, offset);
  }

  /** Entries up to `tail` are history; forget the rate so far. */
  catchUp(tail: number): void {
    this.#historyUpto = tail;
    this.#samples = [];
  }

  note(now: number, pieces: number, offset: number): void {
    if (offset < this.#historyUpto) return;
    const last = this.#samples.at(-1);
    if (last === undefined) this.#begunAt = now;
    // What comes first may be what there was before anybody read: it is counted from its end.
    if (last === undefined || now - this.#begunAt < SAMPLE_EVERY_MS) this.#samples = [{ at: now, pieces }];
    else if (now - last.at >= SAMPLE_EVERY_MS) this.#push({ at: now, pieces });
  }

  /** Pieces a second over the last seconds, or null while too little was seen. */
  perSecond(now: number, pieces: number): number | null {
    const first = this.#samples[0];
    if (first === undefined || now - first.at < SHORTEST_MS) return null;
    return ((pieces - first.pieces) * 1000) / (now - first.at);
  }

  #push(sample: Sample): void {
    const { at: now } = sample;
    this.#samples.push(sample);
    const old = ({ at }: Sample): boolean => at < now - WINDOW_MS;
    while (this.#samples.length > SAMPLES_MOST || this.#samples.slice(0, 1).some(old)) this.#samples.shift();
  }
}
