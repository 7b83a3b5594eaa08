// Where each stream stands, read off the frames that pass: its epoch, the last offset, whether it has ended.
//
// This is the drawer's own account.  It looks at frames only, and so tells what came over the connection, not what the
// client made of it; where the two differ, one of them has a fault.

import { streamOf, wholeNumber } from "./frames.ts";
import type { FrameLike } from "./frames.ts";

export interface Place {
  readonly stream: string;
  epoch: number | null;
  offset: number;
  tail: number | null; // as the last `subscribed` said
  ended: boolean;
  frames: number;
  bytes: number;
}

const PLACES_MOST = 64;
const NAMES_EPOCH: ReadonlySet<string> = new Set(["accepted", "subscribed", "request_start", "seam", "snapshot"]);

export class Places {
  readonly #places = new Map<string, Place>();

  /** Open ones first, and among them the newest. */
  get all(): Place[] {
    return [...this.#places.values()].reverse().sort((one, other) => Number(one.ended) - Number(other.ended));
  }

  /** A frame came in. */
  note(frame: FrameLike, bytes: number): void {
    const id = streamOf(frame);
    const upto = wholeNumber(frame["upto"]);
    if (id === null || (upto === null && !NAMES_EPOCH.has(frame.type))) return;
    const place = this.#at(id);
    place.frames += 1;
    place.bytes += bytes;
    const epoch = wholeNumber(frame["epoch"]);
    if (frame.type === "snapshot") {
      place.epoch = epoch;
      place.offset = upto ?? place.offset;
      place.ended = frame["status"] === "ended";
      return;
    }
    if (epoch !== null && (place.epoch === null || epoch > place.epoch)) place.epoch = epoch;
    if (upto !== null) place.offset = Math.max(place.offset, upto);
    if (frame.type === "subscribed") place.tail = wholeNumber(frame["tail"]);
    if (frame.type === "stream_end") place.ended = true;
  }

  clear(): void {
    this.#places.clear();
  }

  #at(id: string): Place {
    let place = this.#places.get(id);
    if (place === undefined) {
      place = { stream: id, epoch: null, offset: 0, tail: null, ended: false, frames: 0, bytes: 0 };
      this.#places.set(id, place);
      if (this.#places.size > PLACES_MOST) this.#places.delete(this.#leastWanted());
    }
    return place;
  }

  /** An ended one, else the oldest. */
  #leastWanted(): string {
    const all = [...this.#places.values()];
    return ((all.find((place) => place.ended) ?? all[0]) as Place).stream;
  }
}
