// What a client is made with, and what it tells.

import type { CommandError } from "./errors.ts";
import type { Command, Content, Frame, GenerateCommand, MemberGiven, Message, Params } from "./frames.ts";

/** closed: nobody wants one; waiting: it comes back by itself; refused: only `open()` tries again. */
export type ConnectionState = "closed" | "connecting" | "open" | "waiting" | "refused";

export type Transport = "websocket" | "http";

export type TokenSource = string | (() => string | null | Promise<string | null>);

export type KeyValues = Pick<Storage, "getItem" | "setItem" | "removeItem">;

export interface ClientOptions {
  /** Of the WebSocket; default: `ws` beside the page.  The HTTP routes are beside it. */
  url?: string | URL;
  /** What the server knows the user by.  A function is asked before every connection. */
  token?: TokenSource | undefined;
  encoding?: "json" | "msgpack";
  /** auto: a WebSocket, and events with POST where WebSockets do not come through. */
  transport?: "auto" | Transport;
  /** What the server's log calls this client. */
  name?: string;
  /** Keeps what was sent and not answered yet over reloads: `sessionStorage`, say. */
  storage?: KeyValues | null;
  fetch?: typeof fetch;
  WebSocket?: typeof WebSocket;
  random?: () => number;
}

export interface StateChange {
  state: ConnectionState;
  transport: Transport | null;
  /** Until the next attempt, in milliseconds. */
  inMs?: number;
  /** How the last connection was closed. */
  code?: number;
  reason?: string;
}

export interface FrameSeen {
  direction: "in" | "out";
  frame: Frame | Command;
  /** `performance.now()`, in milliseconds. */
  at: number;
  bytes: number;
}

export interface ClientEvents {
  state: StateChange;
  frame: FrameSeen;
  /** Another token is needed, now or soon. */
  token: { why: "required" | "expiring" | "expired" | "refused" };
  /** An error that answers nothing. */
  error: CommandError;
}

export interface GenerateOptions {
  /** `provider/name` */
  model: string;
  /** The whole history, or what the user says. */
  messages: string | readonly Message[];
  params?: Params;
  budget?: NonNullable<GenerateCommand["budget"]>;
  /** Made by the client where there is none; asking again with the same one starts nothing new. */
  request_id?: string;
}

export interface SessionOptions {
  title?: string;
  system?: string;
  model?: string;
  members?: MemberGiven[];
  /** Safe to repeat with the same one; made by the client where there is none. */
  request_id?: string;
}

/** What a message of a session is sent with. */
export interface Chosen {
  model?: string | undefined;
  params?: Params | undefined;
  on_busy?: GenerateCommand["on_busy"] | undefined;
  /** The system prompt of the session that the message makes. */
  system?: string | undefined;
}

/** A place in a stream: behind the last entry that was applied.  Without `epoch` and `offset`: its start. */
export interface Position {
  stream: string;
  epoch?: number | null;
  offset?: number;
  /** How much of the answer's text lies before it, in UTF-16 units. */
  characters?: number;
}

/** Something that was said in a session, and that the session does not show yet. */
export interface Request {
  request_id: string;
  /** null: it makes one. */
  session: string | null;
  content?: Content | undefined;
  /** undefined: the end of the newest path; null: a new beginning. */
  parent?: string | null | undefined;
  /** The parent's key, where the viewer wants to look at what becomes of this. */
  choice?: string | undefined;
  model?: string | undefined;
  params?: Params | undefined;
  on_busy?: GenerateCommand["on_busy"] | undefined;
  system?: string | undefined;
  /** A whole history: no session. */
  messages?: readonly Message[] | undefined;
  budget?: GenerateOptions["budget"] | undefined;
  sends: number;
  reply: { stream: string; seen: boolean } | null;
  error: { code: string; message: string } | null;
  /** Its sender looks at another session. */
  left: boolean;
}
