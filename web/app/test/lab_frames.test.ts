// The developer drawer: what it keeps of the frames that pass, what it finds again, and what it never shows.

import { describe, expect, test, vi } from "vitest";

import { ALL, frameRow, markRow, matches, ndjson, rangeLabel, redacted, shortId, streamOf } from "../src/lab/frames.ts";
import type { FrameLike, Row } from "../src/lab/frames.ts";
import { paced } from "../src/lab/pace.ts";
import { Places } from "../src/lab/places.ts";
import { Recorder } from "../src/lab/recorder.ts";
import type { Watched } from "../src/lab/recorder.ts";
import { Ring } from "../src/lab/ring.ts";
import { Shown } from "../src/lab/shown.ts";

const delta = (upto: number, stream = "r_1"): FrameLike => {
  return { type: "delta_text", stream, after: upto - 1, upto, text: `t${upto}` };
};
const row = (n: number, frame: FrameLike = delta(n + 1), direction: "in" | "out" = "in"): Row =>
  frameRow(n, n * 10, direction, frame, 50);

describe("the ring", () => {
  test("keeps the newest up to its number, and counts what it dropped", () => {
    const ring = new Ring<number>(3);
    for (let item = 0; item < 10; item += 1) ring.push(item);
    expect(ring.toArray()).toEqual([7, 8, 9]);
    expect([ring.at(0), ring.at(-1), ring.at(3), ring.at(-4)]).toEqual([7, 9, undefined, undefined]);
    expect([ring.length, ring.dropped]).toEqual([3, 7]);
  });

  test("keeps to its bytes too, and keeps the newest however large it is", () => {
    const ring = new Ring<number>(100, 10, (bytes) => bytes);
    for (const bytes of [4, 4, 4]) ring.push(bytes);
    expect([ring.length, ring.bytes]).toEqual([2, 8]);
    ring.push(50);
    expect([ring.toArray(), ring.bytes]).toEqual([[50], 50]);
    ring.clear();
    expect([ring.length, ring.bytes, ring.dropped]).toEqual([0, 0, 0]);
  });

  test("holds no more than twice its number, whatever passes", () => {
    const ring = new Ring<{ n: number }>(10);
    for (let n = 0; n < 10_000; n += 1) ring.push({ n });
    expect(ring.toArray().map(({ n }) => n)).toEqual([9990, 9991, 9992, 9993, 9994, 9995, 9996, 9997, 9998, 9999]);
  });
});

describe("a frame in the list", () => {
  test("never shows what gives access", () => {
    for (const type of ["hello", "auth"]) {
      const shown = frameRow(0, 0, "out", { type, token: "secret", client: "me" }, 40);
      expect(shown.frame).toEqual({ type, token: "…", client: "me" });
      expect(ndjson([shown], 0)).not.toContain("secret");
    }
    const plain = delta(1);
    expect(redacted(plain)).toBe(plain);
  });

  test("has the range of its stream, and an entry of a session that of the session", () => {
    expect(rangeLabel(row(4))).toBe("(4, 5]");
    expect(rangeLabel(row(0, { type: "snapshot", stream: "r_1", upto: 7 }))).toBe("upto 7");
    expect(rangeLabel(row(0, { type: "welcome" }))).toBe("");
    expect(streamOf({ type: "turn_start", session: "s_1", stream: "r_1", after: 3, upto: 4 })).toBe("s_1");
    expect(streamOf({ type: "request_start", session: "s_1", stream: "r_1", after: 0, upto: 1 })).toBe("r_1");
    expect(streamOf({ type: "generate", session: "s_1" })).toBe("s_1");
    expect(shortId("r_1fabcdefghijklmnopqrstuvwxyz")).toBe("r_…uvwxyz");
  });

  test("is one line of JSON when it is exported, with the time of day", () => {
    const lines = ndjson([row(1), markRow(2, 30, "connected again")], Date.UTC(2026, 0, 1)).trimEnd().split("\n");
    expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([
      { at: "2026-01-01T00:00:00.010Z", direction: "in", bytes: 50, frame: delta(2) },
      { at: "2026-01-01T00:00:00.030Z", direction: "mark", text: "connected again" },
    ]);
  });

  test("is found by direction, type, stream and text", () => {
    const hello = row(0, { type: "hello", client: "Page/2" }, "out");
    expect(matches(hello, ALL)).toBe(true);
    expect(matches(hello, { ...ALL, direction: "in" })).toBe(false);
    expect(matches(hello, { ...ALL, text: "page/" })).toBe(true);
    expect(matches(row(1), { ...ALL, type: "delta_text" })).toBe(true);
    expect(matches(row(1), { ...ALL, type: "seam" })).toBe(false);
    expect(matches(row(1), { ...ALL, stream: "r_2" })).toBe(false);
    const turn = row(2, { type: "turn_start", session: "s_1", stream: "r_1", after: 0, upto: 1 });
    expect([matches(turn, { ...ALL, stream: "s_1" }), matches(turn, { ...ALL, stream: "r_1" })]).toEqual([true, true]);
    const mark = markRow(3, 0, "connection lost");
    expect([matches(mark, { ...ALL, type: "seam" }), matches(mark, { ...ALL, text: "seam" })]).toEqual([true, false]);
  });
});

describe("what is shown of the list", () => {
  const filled = (count: number, most = 100): { ring: Ring<Row>; shown: Shown; add: (n: number) => void } => {
    const ring = new Ring<Row>(most);
    const shown = new Shown(ring);
    const add = (n: number): void => {
      const added = row(n, n % 2 === 0 ? delta(n + 1) : { type: "heartbeat" });
      ring.push(added);
      shown.note(added);
    };
    for (let n = 0; n < count; n += 1) add(n);
    return { ring, shown, add };
  };
  const numbers = (shown: Shown): number[] => shown.toArray().map(({ n }) => n);

  test("grows with what is wanted, and is sifted when something else is", () => {
    const { shown, add } = filled(6);
    shown.want({ ...ALL, type: "heartbeat" });
    expect(numbers(shown)).toEqual([1, 3, 5]);
    add(6);
    add(7);
    expect(numbers(shown)).toEqual([1, 3, 5, 7]);
    expect([shown.at(0)?.n, shown.at(4), shown.at(-1), shown.placeOf(5)]).toEqual([1, undefined, undefined, 2]);
    shown.want(ALL);
    expect(shown.length).toBe(8);
  });

  test("lets go of what the ring has dropped", () => {
    const { shown } = filled(10_000, 10);
    expect(numbers(shown)).toEqual([9990, 9991, 9992, 9993, 9994, 9995, 9996, 9997, 9998, 9999]);
    expect([shown.placeOf(9989), shown.placeOf(9990)]).toEqual([-1, 0]);
  });

  test("stands still while it is held, can be searched then, and catches up", () => {
    const { shown, add } = filled(4, 6);
    shown.hold();
    for (let n = 4; n < 20; n += 1) add(n);
    expect([numbers(shown), shown.sinceHeld, shown.held]).toEqual([[0, 1, 2, 3], 16, true]);
    shown.want({ ...ALL, type: "delta_text" });
    expect(numbers(shown)).toEqual([0, 2]);
    shown.release();
    expect([numbers(shown), shown.held]).toEqual([[14, 16, 18], false]);
  });
});

describe("where the streams stand", () => {
  test("is read off the frames", () => {
    const places = new Places();
    places.note({ type: "accepted", stream: "r_1", epoch: 5 }, 40);
    places.note({ type: "request_start", stream: "r_1", session: "s_1", after: 0, upto: 1, epoch: 6 }, 40);
    places.note({ type: "delta_text", stream: "r_1", after: 1, upto: 4 }, 40);
    places.note({ type: "subscribed", stream: "r_1", epoch: 5, offset: 0, tail: 4 }, 40); // an old reply, read late
    expect(places.all).toEqual([{ stream: "r_1", epoch: 6, offset: 4, tail: 4, ended: false, frames: 4, bytes: 160 }]);
    places.note({ type: "snapshot", stream: "r_1", epoch: 9, upto: 3, status: "open" }, 40);
    expect(places.all[0]).toMatchObject({ epoch: 9, offset: 3 });
    places.note({ type: "stream_end", stream: "r_1", after: 3, upto: 4 }, 40);
    expect(places.all[0]?.ended).toBe(true);
  });

  test("shows the open ones first, and forgets ended ones before others", () => {
    const places = new Places();
    for (let n = 0; n < 70; n += 1) {
      places.note(delta(1, `r_${n}`), 10);
      if (n % 2 === 1) places.note({ type: "stream_end", stream: `r_${n}`, after: 1, upto: 2 }, 10);
    }
    const all = places.all;
    expect(all).toHaveLength(64);
    expect(all[0]?.stream).toBe("r_68");
    expect(all.filter(({ ended }) => !ended)).toHaveLength(35);
    expect(all.at(-1)?.stream).toBe("r_13");
  });

  test("takes no notice of what is about no stream", () => {
    const places = new Places();
    for (const type of ["heartbeat", "ok", "typing", "presence"]) places.note({ type, session: "s_1" }, 10);
    expect(places.all).toEqual([]);
  });
});

// ------------------------------------------------------------------ the recorder

type Listener = (value: never) => void;

/** A client that says what it is told to. */
class Told {
  state = "open";
  welcome: object | null = { node: "n_1" };
  readonly #listeners = new Map<string, Set<Listener>>();

  on(event: string, listener: Listener): () => void {
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  emit(event: string, value: unknown): void {
    for (const listener of this.#listeners.get(event) ?? []) listener(value as never);
  }

  frame(direction: "in" | "out", frame: FrameLike, at = 0): void {
    this.emit("frame", { direction, frame, at, bytes: 30 });
  }

  get heard(): number {
    return [...this.#listeners.values()].reduce((sum, listeners) => sum + listeners.size, 0);
  }
}

function recording(): { told: Told; recorder: Recorder; stop: () => void; clock: { now: number } } {
  const told = new Told();
  const clock = { now: 0 };
  const recorder = new Recorder(told as unknown as Watched, () => clock.now);
  return { told, recorder, stop: recorder.start(), clock };
}

describe("the recorder", () => {
  test("counts both ways and redacts, also where the client has not", () => {
    const { told, recorder } = recording();
    told.frame("out", { type: "hello", token: "secret" });
    told.frame("in", { type: "heartbeat" }, 7);
    told.frame("in", delta(1), 9);
    expect(JSON.stringify(recorder.rows.toArray())).not.toContain("secret");
    expect([recorder.framesIn, recorder.framesOut, recorder.heartbeats, recorder.heardAt]).toEqual([2, 1, 1, 9]);
    expect([recorder.bytesIn, recorder.bytesOut]).toEqual([60, 30]);
    expect([...recorder.types]).toEqual(["hello", "heartbeat", "delta_text"]);
  });

  test("marks a lost connection and its return, in the list and in what was coming", () => {
    const { told, recorder, clock } = recording();
    told.frame("in", delta(1));
    clock.now = 100;
    told.emit("state", { state: "waiting", inMs: 180.4, code: 1006 });
    told.emit("state", { state: "connecting" });
    clock.now = 300;
    told.emit("state", { state: "open" });
    expect(recorder.rows.toArray().filter(({ frame }) => frame === null).map(({ type }) => type)).toEqual([
      "connection waiting (1006), next attempt in 180 ms",
      "connection connecting",
      "connected again",
    ]);
    expect(recorder.tracks.of("r_1")?.interruptions.toArray()).toEqual([
      { at: 100, kind: "lost", label: "connection lost" },
      { at: 300, kind: "back", label: "reconnected" },
    ]);
    expect(recorder.reconnects).toBe(1);
  });

  test("does not take the first connection for a reconnect", () => {
    const told = new Told();
    Object.assign(told, { state: "connecting", welcome: null });
    const recorder = new Recorder(told as unknown as Watched, () => 0);
    recorder.start();
    told.emit("state", { state: "open" });
    expect([recorder.reconnects, recorder.rows.at(0)?.type]).toEqual([0, "connected"]);
  });

  test("listens only while it is wanted, and says what it has missed", () => {
    const { told, recorder, stop, clock } = recording();
    stop();
    expect(told.heard).toBe(0);
    told.frame("in", delta(1));
    clock.now = 4_000;
    recorder.start();
    expect(recorder.rows.toArray().map(({ type }) => type)).toEqual(["not recorded for 4 s: the drawer was closed"]);
  });

  test("is bounded by rows and by bytes", () => {
    const { told, recorder } = recording();
    for (let n = 0; n < 3_000; n += 1) told.frame("in", delta(n + 1));
    expect([recorder.rows.length, recorder.rows.dropped, recorder.shown.length]).toEqual([2_000, 1_000, 2_000]);
    told.emit("frame", { direction: "in", frame: delta(3_001), at: 0, bytes: 5_000_000 });
    expect([recorder.rows.length, recorder.shown.length]).toEqual([1, 1]);
  });

  test("tells who draws of every change, and forgets on request but for where things stand", () => {
    const { told, recorder } = recording();
    let changes = 0;
    const stop = recorder.on(() => (changes += 1));
    told.frame("in", delta(1));
    recorder.want({ ...ALL, type: "delta_text" });
    recorder.clear();
    expect([changes, recorder.rows.length, recorder.tracks.streams, recorder.places.all.length]).toEqual([3, 0, [], 1]);
    stop();
    told.frame("in", delta(2));
    expect(changes).toBe(3);
  });
});

describe("word of changes", () => {
  test("goes on at once, and then no more often than it is wanted", () => {
    vi.useFakeTimers();
    let told = 0;
    const pace = paced(() => (told += 1), 80);
    for (let ms = 0; ms < 800; ms += 1) {
      pace.note();
      vi.advanceTimersByTime(1);
    }
    expect(told).toBe(11);
    vi.advanceTimersByTime(1_000);
    expect(told).toBe(11);
    pace.note();
    expect(told).toBe(12);
    pace.note();
    pace.stop();
    vi.advanceTimersByTime(1_000);
    expect(told).toBe(12);
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
  });
});
