// The session that is open: how fast its answers come, what is said of them aloud, and what the tab keeps of it.
//
// There is always one; a session that was not made yet has no id.

import { type Client, type Frame, type SavedSession, type Session, busyTurns } from "@everstream/client";

import { loadTab, saveTab } from "./kept.ts";
import { Meter } from "./meter.ts";
import type { Store } from "./storage.ts";
import { Voice } from "./voice.ts";

const SAVE_EVERY_MS = 1_000;
const LISTEN_EVERY_MS = 200; // how often it is asked whether there is something to say

type TurnEnd = Extract<Frame, { type: "turn_end" }>;

/** What the page is told. */
export interface ReadingListener {
  /** Something but the text of an answer. */
  changed(): void;
  /** The first message has made the session. */
  made(id: string): void;
  ended(frame: TurnEnd): void;
  /** It is closed to the viewer. */
  gone(session: Session, why: string): void;
  failed(text: string): void;
  /** To be said to a screen reader. */
  spoken(text: string): void;
}

export class Reading {
  readonly #client: Client;
  readonly #tab: Store;
  readonly #tell: ReadingListener;
  readonly #voice: Voice;
  readonly #meters = new Map<string, Meter>();
  #stops: (() => void)[] = [];
  #listening: ReturnType<typeof setInterval> | undefined;
  #saving: ReturnType<typeof setTimeout> | undefined;
  session: Session;

  /** Opens the session `id`, as the tab has kept it. */
  constructor(client: Client, tab: Store, id: string | null, tell: ReadingListener) {
    this.#client = client;
    this.#tab = tab;
    this.#tell = tell;
    this.#voice = new Voice((text) => tell.spoken(text));
    this.session = this.#enter(id, id === null ? undefined : loadTab(tab, id));
    if (id !== null) this.#voice.skip(this.session);
  }

  get busy(): boolean {
    return busyTurns(this.session.state).length > 0;
  }

  /** Open another one; null is one that its first message makes. */
  open(id: string | null): void {
    this.save(); // which branches were chosen
    this.#leave();
    this.session = this.#enter(id, id === null ? undefined : loadTab(this.#tab, id));
    this.changed();
  }

  /** Hold nothing any more of what was seen and sent; the session stays the same. */
  forget(): void {
    const { id, requests } = this.session;
    for (const request of requests) this.session.drop(request);
    this.#leave();
    this.session = this.#enter(id);
    this.changed();
  }

  save(): void {
    clearTimeout(this.#saving);
    this.#saving = undefined;
    saveTab(this.#tab, this.session.saved());
  }

  /** Pieces a second of a running answer, or null. */
  rateOf(stream: { id: string; pieces: number }): number | null {
    return this.#meters.get(stream.id)?.perSecond(performance.now(), stream.pieces) ?? null;
  }

  changed(): void {
    this.#voice.change(this.session);
    if (this.busy !== (this.#listening !== undefined)) {
      clearInterval(this.#listening);
      this.#listening = this.busy ? setInterval(() => this.#follow(), LISTEN_EVERY_MS) : undefined;
    }
    this.#saveSoon();
    this.#tell.changed();
  }

  #enter(id: string | null, saved?: SavedSession): Session {
    const session = saved === undefined ? this.#client.session(id) : this.#client.session(id, saved);
    this.#stops = [
      session.on("change", () => this.changed()),
      session.on("grown", ({ stream, frame }) => this.#grown(stream, frame)),
      session.on("made", (made) => {
        this.#voice.begin(made.stream);
        this.#tell.made(made.id);
        this.changed();
      }),
      session.on("ended", ({ frame }) => {
        this.#meters.delete(frame.stream);
        this.#tell.ended(frame);
      }),
      session.on("gone", ({ why }) => this.#tell.gone(session, why)),
      session.on("failed", ({ text }) => this.#tell.failed(text)),
    ];
    return session;
  }

  #leave(): void {
    for (const stop of this.#stops) stop();
    this.#meters.clear();
    this.#voice.forget();
    this.session.close();
  }

  #grown(stream: { id: string; pieces: number; offset: number }, frame: Frame): void {
    let meter = this.#meters.get(stream.id);
    if (meter === undefined) this.#meters.set(stream.id, (meter = new Meter()));
    meter.take(frame, performance.now(), stream.pieces, stream.offset);
    this.#saveSoon();
  }

  #follow(): void {
    this.#voice.follow(this.session, performance.now());
  }

  #saveSoon(): void {
    this.#saving ??= setTimeout(() => this.save(), SAVE_EVERY_MS);
  }
}
