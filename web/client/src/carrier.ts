// What carries frames: a WebSocket (websocket.ts), or events with POST (http.ts).  A carrier is one connection, and
// knows nothing of the next.  It is silent once it has said `closed`, or was closed.

import type { Command, Frame, HelloCommand } from "./frames.ts";

export interface Carrier {
  /** Bytes that go out beside a command, and count against the largest frame. */
  readonly overhead: number;
  /** The bytes of a command as they go out; `send` takes them. */
  encode(command: Command): string | Uint8Array<ArrayBuffer>;
  send(encoded: string | Uint8Array<ArrayBuffer>): void;
  close(): void;
}

/** What a carrier tells. */
export interface Heard {
  frame(frame: Frame, bytes: number): void;
  /** Something came that is no frame: the connection lives. */
  alive(): void;
  /** It is over; with `waitMs`, nobody wants to see us again before that. */
  closed(code: number, reason: string, waitMs?: number): void;
  /** What went out without the wire's doing. */
  said(command: Command, bytes: number): void;
}

/** Begin a connection.  `hello` is called once, when it is time to say where everything goes on. */
export type Carry = (hello: () => HelloCommand, heard: Heard) => Carrier;

const BYTES_PER_UNIT_MOST = 3; // of UTF-8, for one unit of UTF-16

/** The bytes of what goes over the wire; `atMost` may stand for fewer than that. */
export function bytesOf(encoded: string | Uint8Array, atMost = 0): number {
  if (typeof encoded !== "string") return encoded.length;
  if (encoded.length * BYTES_PER_UNIT_MOST <= atMost) return encoded.length;
  return new TextEncoder().encode(encoded).length;
}
