// One session as a reader holds it: a pure reducer of its entries, and of the response streams that belong to it.
//
// A session is a stream like any other: its entries have offsets, come in ranges, may come twice, late, or with a hole
// (stream.ts has the rule).  What stands in place of entries is a state: the answer to `session.open`, or a `snapshot`;
// it replaces what is held.  The lists in it (turns, members) may be newer than its position; entries that repeat what
// they say already change nothing.  All is plain data: it can be stored as JSON, and taken up after a reload.
//
//   turn:   queued --turn_start--> running --message with calls--> waiting --turn_start--> running --turn_end--> (gone)
//
// Entries of the session and those of its streams keep no order between them: a message may be here before the stream
// that it comes from has ended, or after.

import type {
  CallMade,
  Content,
  Envelope,
  ErrorInfo,
  Frame,
  MemberChangedEntry,
  MemberShown,
  MessageAddedEntry,
  Role,
  SessionChangedEntry,
  SessionEntry,
  SessionMessage,
  SessionSnapshot,
  TurnQueuedEntry,
  TurnStartEntry,
  UserPresent,
} from "./frames.ts";
import { advance, applyFrame, growEpoch, isOffset, newStream, position, Verdict } from "./stream.ts";
import type { Position, StreamState } from "./stream.ts";

export const Turn = { QUEUED: "queued", RUNNING: "running", WAITING: "waiting" } as const;

/** A turn that has not ended. */
export interface TurnState {
  turn: string;
  /** What answers it. */
  stream: string;
  model: string;
  /** The message that is answered. */
  message: string;
  user: string;
  state: (typeof Turn)[keyof typeof Turn];
  /** What is asked, while it is queued; absent where a message is answered anew. */
  content?: Content | null | undefined;
  interrupt?: boolean | undefined;
  request_id?: string | null | undefined;
  left_out?: number | undefined;
  /** The newest message when it started. */
  behind?: string | undefined;
}

/** What is known of a stream's turn beside its entries. */
export interface Note {
  /** How many of the oldest messages the model was not sent. */
  left_out?: number;
  /** Who stopped it. */
  by?: string;
  error?: ErrorInfo;
  /** Who approved each call that has been started; "" where nobody had to. */
  started?: Record<string, string>;
}

export interface SessionState {
  id: string;
  /** Whose view it is. */
  me: string | null;
  epoch: number | null;
  offset: number;
  /** Its state has come. */
  opened: boolean;
  /** A question about its position is on its way. */
  waiting: boolean;
  deleted: boolean;
  title: string;
  system: string;
  model: string;
  created: number | null;
  role: Role | null;
  members: MemberShown[];
  /** Who is here. */
  users: UserPresent[];
  /** In the order of their entries: a parent before what follows it. */
  messages: SessionMessage[];
  /** Whether there are earlier ones. */
  more: boolean;
  /** Those that have not ended; the queued ones among them in their order. */
  turns: TurnState[];
  streams: Record<string, StreamState>;
  /** By stream. */
  notes: Record<string, Note>;
}

export type Right = "send" | "approve" | "update" | "members" | "delete";

const STATED = ["title", "system", "model", "created", "role", "members", "messages", "more", "users"] as const;
const RIGHTS: Record<Role, ReadonlySet<Right>> = {
  owner: new Set<Right>(["send", "approve", "update", "members", "delete"]),
  editor: new Set<Right>(["send", "approve", "update"]),
  viewer: new Set<Right>(),
};

/** A session of which nothing was read yet, as the user `me` sees it. */
export function newSession(id: string, me: string | null = null): SessionState {
  return {
    id,
    me,
    epoch: null,
    offset: 0,
    opened: false,
    waiting: false,
    deleted: false,
    title: "",
    system: "",
    model: "",
    created: null,
    role: null,
    members: [],
    users: [],
    messages: [],
    more: false,
    turns: [],
    streams: {},
    notes: {},
  };
}

/** What the user's role allows. */
export function may(session: SessionState, right: Right): boolean {
  return session.role !== null && Object.hasOwn(RIGHTS, session.role) && RIGHTS[session.role].has(right);
}

/** The turns that run, or wait for results. */
export function busyTurns(session: SessionState): TurnState[] {
  return session.turns.filter((turn) => turn.state !== Turn.QUEUED);
}

export function queuedTurns(session: SessionState): TurnState[] {
  return session.turns.filter((turn) => turn.state === Turn.QUEUED);
}

export function streamOf(session: SessionState, id: string | null | undefined): StreamState | null {
  return own(session.streams, id) ?? null;
}

export function noteOf(session: SessionState, id: string | null | undefined): Note {
  return own(session.notes, id) ?? {};
}

/** Streams that are being read, and of which something is held. */
export function readStreams(session: SessionState): StreamState[] {
  return Object.values(session.streams).filter((stream) => stream.end === null && stream.offset > 0);
}

/** All positions that a new connection goes on from: the session's own, and its running streams'. */
export function positions(session: SessionState): Position[] {
  return [session, ...readStreams(session)].map(position);
}

/** The text of a message's content. */
export function textOf(content: Content | null | undefined): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return content.map((part) => (part.type === "text" ? part.text : "[image]")).join("\n");
}

/** Take one frame of the session or of its streams (changed in place) and say what became of it. */
export function take(session: SessionState, frame: Frame): Verdict {
  if (!isOwn(session, frame)) {
    const stream = streamOf(session, frame.stream);
    return stream === null ? Verdict.IGNORED : applyFrame(stream, frame);
  }
  if (frame.type === "subscribed") {
    growEpoch(session, frame.epoch);
    session.waiting = false;
    return Verdict.NOTED;
  }
  // No entries: they may be lost.
  if (frame.type === "presence" || frame.type === "typing") {
    if (frame.type === "presence") session.users = frame.users ?? [];
    return Verdict.NOTED;
  }
  if (frame.type === "snapshot" || frame.type === "ok") {
    const told = frame as Partial<SessionSnapshot>;
    const isState = frame.type === "snapshot" || (Array.isArray(told.messages) && Array.isArray(told.running));
    const offset = told.offset ?? told.upto;
    if (!isState || !isOffset(offset)) return Verdict.IGNORED;
    replace(session, told, offset);
    return Verdict.REPLACED;
  }
  const verdict = session.deleted ? Verdict.IGNORED : advance(session, frame);
  if (verdict !== Verdict.APPLIED) return verdict;
  growEpoch(session, frame.epoch);
  takeEntry(session, frame as SessionEntry);
  return verdict;
}

/**
 * Whether a frame is the session's own.  Its entries name it in `session`, for their `stream` may be a response stream;
 * of a response stream's entries only the first names a session, and replies have no range.
 */
export function isOwn(session: { id: string }, { type, session: named, stream, after }: Envelope): boolean {
  if (stream === session.id) return true;
  return named === session.id && (stream === undefined || (after !== undefined && type !== "request_start"));
}

/** Put a page of earlier messages before those that are here. */
export function addHistory(session: SessionState, page: { messages: SessionMessage[]; more: boolean }): void {
  const known = new Set(session.messages.map(({ id }) => id));
  session.messages.unshift(...page.messages.filter(({ id }) => !known.has(id)));
  session.more = page.more;
}

/** What an entry says.  An unknown one says nothing, but has its place. */
function takeEntry(session: SessionState, frame: SessionEntry): void {
  switch (frame.type) {
    case "session":
      return takeChange(session, frame);
    case "member":
      return takeMember(session, frame);
    case "message":
      return takeMessage(session, frame);
    case "turn_queued":
      return enqueue(session, frame);
    case "turn_start":
      return start(session, frame);
    case "tool_start":
      return noteStarted(session, frame.stream, frame.call_id, frame.user ?? "");
    case "turn_end":
      session.turns = session.turns.filter((known) => known.turn !== frame.turn);
      note(session, frame.stream, { by: frame.by, error: frame.error });
  }
}

function takeChange(session: SessionState, { title, system, model, created, deleted }: SessionChangedEntry): void {
  session.title = title ?? session.title;
  session.system = system ?? session.system;
  session.model = model ?? session.model;
  session.created = created ?? session.created;
  session.deleted = deleted ?? session.deleted;
}

function takeMember(session: SessionState, { user, role }: MemberChangedEntry): void {
  const known = session.members.find((member) => member.user === user);
  if (!role) session.members = session.members.filter((member) => member !== known);
  else if (known) known.role = role;
  else session.members.push({ user, role });
  if (user === session.me) session.role = role ?? null;
}

function takeMessage(session: SessionState, { message }: MessageAddedEntry): void {
  const place = session.messages.findIndex(({ id }) => id === message.id);
  if (place === -1) session.messages.push(message);
  else session.messages[place] = message;
  const turn = session.turns.find(({ stream }) => stream === message.stream);
  // An answer that is not whole does not wait, whatever it calls.
  const calls: CallMade[] = message.role === "assistant" && !message.reason ? (message.tool_calls ?? []) : [];
  if (turn !== undefined && calls.length > 0) turn.state = Turn.WAITING;
}

function enqueue(session: SessionState, frame: TurnQueuedEntry): void {
  const queue = queuedTurns(session);
  if (queue.some(({ turn }) => turn === frame.turn)) return; // from a state that is newer than this entry
  queue.splice((frame.position ?? queue.length + 1) - 1, 0, turnOf(frame, Turn.QUEUED));
  session.turns = [...busyTurns(session).filter(({ turn }) => turn !== frame.turn), ...queue];
}

function start(session: SessionState, frame: TurnStartEntry): void {
  const started = { ...turnOf(frame, Turn.RUNNING), behind: session.messages.at(-1)?.id };
  session.turns = [...session.turns.filter(({ turn }) => turn !== frame.turn), started];
  addStream(session, started);
}

/** A turn as it is held, from `turn_queued`, `turn_start` or the list of a state. */
function turnOf(told: Omit<TurnState, "state" | "behind">, state: TurnState["state"]): TurnState {
  const { turn, stream, model, message, user, content, interrupt, request_id, left_out } = told;
  return { turn, stream, model, message, user, content, interrupt, request_id, left_out, state };
}

/** Begin to read what answers a turn. */
function addStream(session: SessionState, { stream, left_out }: TurnState, epoch: number | null = null): void {
  if (streamOf(session, stream) === null) session.streams[stream] = newStream(stream, epoch);
  if (left_out) note(session, stream, { left_out });
}

function noteStarted(session: SessionState, stream: string, call: string, user: string): void {
  note(session, stream, { started: { ...noteOf(session, stream).started, [call]: user } });
}

function note(session: SessionState, stream: string, fields: { [K in keyof Note]?: Note[K] | null | undefined }): void {
  const told = Object.entries(fields).filter(([, value]) => value !== undefined && value !== null);
  session.notes[stream] = { ...noteOf(session, stream), ...Object.fromEntries(told) };
}

function replace(session: SessionState, told: Partial<SessionSnapshot>, offset: number): void {
  const { id, me, users, streams: held, notes } = session;
  Object.assign(session, newSession(id, me), { users, notes, opened: true, epoch: told.epoch ?? null, offset });
  const stated = STATED.filter((name) => told[name] !== undefined && told[name] !== null);
  Object.assign(session, Object.fromEntries(stated.map((name) => [name, told[name]])));
  for (const turn of told.running ?? []) {
    session.turns.push(turnOf(turn, turn.state));
    if (turn.state === Turn.QUEUED) continue;
    keep(session, held, turn.stream);
    addStream(session, turn, turn.epoch ?? null);
    for (const call of turn.started ?? []) noteStarted(session, turn.stream, call, "");
  }
  // What was read of answers that have ended tells how fast they came.
  for (const { stream } of session.messages) keep(session, held, stream);
}

function keep(session: SessionState, held: Record<string, StreamState>, id: string | null | undefined): void {
  const stream = own(held, id);
  if (stream !== undefined) session.streams[stream.id] = stream;
}

function own<T>(record: Record<string, T>, key: string | null | undefined): T | undefined {
  return typeof key === "string" && Object.hasOwn(record, key) ? record[key] : undefined;
}
