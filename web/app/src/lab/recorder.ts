// What the developer drawer knows: every frame that passed while it was open, and what follows from them.
//
// It listens and asks nothing: a page behaves the same with the drawer open.  Frames may come a thousand a second; each
// costs a row in a ring and a step in a few counters, and whoever draws is told that something changed, and draws once
// a frame of the screen.  The recorder outlives the drawer (the client has one), so that closing it loses nothing; what
// passes meanwhile is not recorded, and a mark says so.

import type { Client, FrameSeen, StateChange } from "@everstream/client";

import { frameRow, markRow } from "./frames.ts";
import type { FrameLike, Row, Wanted } from "./frames.ts";
import { Tracks } from "./gaps.ts";
import { Places } from "./places.ts";
import { Ring } from "./ring.ts";
import { Shown } from "./shown.ts";

const ROWS_MOST = 2_000;
const BYTES_MOST = 4 * 1024 * 1024;
const ROW_BYTES = 200; // what a row costs beside its frame
const TYPES_MOST = 100;

/** What a recorder needs of the client. */
export type Watched = Pick<Client, "on" | "state" | "welcome">;

export class Recorder {
  readonly rows = new Ring<Row>(ROWS_MOST, BYTES_MOST, (row) => row.bytes + ROW_BYTES);
  readonly shown = new Shown(this.rows);
  readonly tracks = new Tracks();
  readonly places = new Places();
  readonly types = new Set<string>(); // seen so far
  reconnects = 0;
  heartbeats = 0;
  framesIn = 0;
  framesOut = 0;
  bytesIn = 0;
  bytesOut = 0;
  heardAt: number | null = null;
  #n = 0;
  #open = false;
  #wasOpen = false; // the first connection is no reconnect
  #stoppedAt: number | null = null;
  readonly #client: Watched;
  readonly #now: () => number;
  readonly #listeners = new Set<() => void>();

  constructor(client: Watched, now: () => number = () => performance.now()) {
    this.#client = client;
    this.#now = now;
  }

  /** Begin to listen.  Gives what ends it. */
  start(): () => void {
    if (this.#stoppedAt !== null) {
      this.mark(`not recorded for ${Math.round((this.#now() - this.#stoppedAt) / 1_000)} s: the drawer was closed`);
    }
    this.#open = this.#client.state === "open";
    this.#wasOpen ||= this.#client.welcome !== null;
    const stops = [
      this.#client.on("frame", (seen) => this.#frame(seen)),
      this.#client.on("state", (change) => this.#state(change)),
    ];
    return () => {
      this.#stoppedAt = this.#now();
      for (const stop of stops) stop();
    };
  }

  on(changed: () => void): () => void {
    this.#listeners.add(changed);
    return () => this.#listeners.delete(changed);
  }

  /** Something happened that is no frame. */
  mark(text: string): void {
    this.#add(markRow(this.#n++, this.#now(), text));
  }

  /** Empty the list and the timelines.  Where the streams stand, and the counters, stay. */
  clear(): void {
    this.rows.clear();
    this.shown.clear();
    this.tracks.clear();
    this.types.clear();
    this.#changed();
  }

  want(wanted: Wanted): void {
    this.shown.want(wanted);
    this.#changed();
  }

  hold(): void {
    this.shown.hold();
    this.#changed();
  }

  release(): void {
    this.shown.release();
    this.#changed();
  }

  #frame({ direction, frame, at, bytes }: FrameSeen): void {
    const row = frameRow(this.#n++, at, direction, frame as unknown as FrameLike, bytes);
    if (direction === "in") {
      this.heardAt = at;
      this.framesIn += 1;
      this.bytesIn += bytes;
      if (row.type === "heartbeat") this.heartbeats += 1;
      this.places.note(row.frame as FrameLike, bytes);
      this.tracks.note(row);
    } else {
      this.framesOut += 1;
      this.bytesOut += bytes;
    }
    if (this.types.size < TYPES_MOST) this.types.add(row.type);
    this.#add(row);
  }

  #state({ state, inMs, code, reason }: StateChange): void {
    const at = this.#now();
    if (state === "open") {
      if (this.#wasOpen && !this.#open) {
        this.reconnects += 1;
        this.tracks.interrupted(at, "back", "reconnected");
      }
      this.mark(this.#wasOpen ? "connected again" : "connected");
      this.#open = this.#wasOpen = true;
      return;
    }
    if (this.#open) this.tracks.interrupted(at, "lost", "connection lost");
    this.#open = false;
    const why = code === undefined ? "" : ` (${code}${reason ? ` ${reason}` : ""})`;
    const when = inMs === undefined ? "" : `, next attempt in ${Math.round(inMs)} ms`;
    this.mark(`connection ${state}${why}${when}`);
  }

  #add(row: Row): void {
    this.rows.push(row);
    this.shown.note(row);
    this.#changed();
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }
}

const recorders = new WeakMap<Client, Recorder>();

export function recorderOf(client: Client): Recorder {
  let recorder = recorders.get(client);
  if (recorder === undefined) {
    recorder = new Recorder(client);
    recorders.set(client, recorder);
  }
  return recorder;
}
