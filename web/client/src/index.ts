// What a program imports.

export { Client, Session, Stream } from "./api.ts";
export type { Part, Result, SavedSession, SessionEvents, StreamEvents } from "./api.ts";
export { CommandError, TextWithdrawn } from "./errors.ts";
export type { LocalCode } from "./errors.ts";
export type * from "./frames.ts";
export type {
  Chosen,
  ClientEvents,
  ClientOptions,
  ConnectionState,
  FrameSeen,
  GenerateOptions,
  KeyValues,
  Position,
  Request,
  SessionOptions,
  StateChange,
  TokenSource,
  Transport,
} from "./options.ts";
