// What a program imports.

export { Client } from "./client.ts";
export { Session } from "./session_handle.ts";
export type { SavedSession, SessionEvents } from "./session_handle.ts";
export { Stream } from "./stream_handle.ts";
export type { Result, StreamEvents } from "./stream_handle.ts";
export type { Part } from "./parts.ts";
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
export {
  addHistory,
  busyTurns,
  isOwn,
  may,
  newSession,
  noteOf,
  positions,
  queuedTurns,
  readStreams,
  streamOf,
  take,
  textOf,
  Turn,
} from "./session.ts";
export type { Note, Right, SessionState, TurnState } from "./session.ts";
export { advance, applyFrame, growEpoch, newStream, position, startOver, Verdict } from "./stream.ts";
export type { HeldCall, Seam, StreamState } from "./stream.ts";
export { isNewest, pathOf, ROOT, treeOf } from "./tree.ts";
export type { Choices, PathItem, Tree, TreeNode } from "./tree.ts";
