// What a client, its streams and its sessions are to each other.

import type { Frame, Resume } from "./frames.ts";
import type { KeyValues } from "./options.ts";
import type { Outbox } from "./outbox.ts";
import type { Session } from "./session_handle.ts";
import type { StreamState, Verdict } from "./stream.ts";
import type { Stream } from "./stream_handle.ts";
import type { Wire } from "./wire.ts";

/** What has become of a frame, and the state that has changed by it. */
export interface Taken {
  state: StreamState;
  verdict: Verdict;
}

/** What a client has its streams do. */
export interface StreamReader {
  readonly stream: Stream;
  resume(): Resume[];
  welcomed(): void;
  /** What has become of a frame; null: nothing. */
  take(frame: Frame): Taken | null;
  /** Somebody else reads it on this connection. */
  follow(taken: Taken, frame: Frame): void;
  /** A session does not read it any more, perhaps: then it reads by itself. */
  alone(): void;
}

export interface StreamHost {
  readonly wire: Wire;
  readonly outbox: Outbox;
  /** It is read, by this name. */
  joins(id: string, reader: StreamReader): void;
  leaves(id: string, reader: StreamReader): void;
  /** The state that an open session holds of it, or another stream that reads it. */
  heldBySession(id: string): StreamState | null;
  heldByStream(id: string): StreamState | null;
}

/** What a client has its sessions do. */
export interface SessionReader {
  readonly session: Session;
  resume(): Resume[];
  welcomed(): void;
  /** What has become of a frame of one of its streams; null: it is none, or none of its own. */
  take(frame: Frame): Taken | null;
}

export interface SessionHost {
  readonly wire: Wire;
  readonly outbox: Outbox;
  readonly storage: KeyValues | null;
  opens(reader: SessionReader): void;
  /** It holds other streams than before. */
  replaced(): void;
  closes(reader: SessionReader): void;
}
