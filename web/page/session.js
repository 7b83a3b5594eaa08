// One session as a reader holds it: a pure reducer of its entries, and of the response streams that belong to it.
//
// A session is a stream like any other: its entries have offsets, come in ranges, may come twice, late, or with a hole
// (stream.js has the rule).  What stands in place of entries is a state: the answer to `session.open`, or a `snapshot`;
// it replaces what is held.  The lists in it (turns, members) may be newer than its position; entries that repeat what
// they say already change nothing.  All is plain data: it can be stored as JSON, and taken up after a reload.
//
//   turn:   queued --turn_start--> running --message with calls--> waiting --turn_start--> running --turn_end--> (gone)
//
// Entries of the session and those of its streams keep no order between them: a message may be here before the stream
// that it comes from has ended, or after.

import { Verdict, advance, apply, growEpoch, isOffset, newStream, position } from "./stream.js";

export const Turn = Object.freeze({ QUEUED: "queued", RUNNING: "running", WAITING: "waiting" });

const STATED = ["title", "system", "model", "created", "role", "members", "messages", "more", "users"];
const PASSING = new Set(["presence", "typing"]); // no entries: they may be lost
const RIGHTS = {
  owner: new Set(["send", "approve", "update", "members", "delete"]),
  editor: new Set(["send", "approve", "update"]),
};

/** A session of which nothing was read yet, as the user `me` sees it. */
export function newSession(id, me = null) {
  return {
    id,
    me,
    epoch: null,
    offset: 0,
    opened: false, // its state has come
    waiting: false, // a question about its position is on its way
    deleted: false,
    title: "",
    system: "",
    model: "",
    created: null,
    role: null,
    members: [], // {user, role}
    users: [], // who is here: {id, name, connections}
    messages: [], // in the order of their entries: a parent before what follows it
    more: false, // whether there are earlier ones
    turns: [], // that have not ended; the queued ones among them in their order
    streams: {}, // by id, as stream.js has them
    notes: {}, // by stream: {left_out, by, error, started: {call_id: who approved it}}
  };
}

/** What the user's role allows. */
export function may(session, right) {
  return RIGHTS[session.role]?.has(right) ?? false;
}

/** The turns that run, or wait for results. */
export function busyTurns(session) {
  return session.turns.filter((turn) => turn.state !== Turn.QUEUED);
}

export function queuedTurns(session) {
  return session.turns.filter((turn) => turn.state === Turn.QUEUED);
}

export function streamOf(session, id) {
  return Object.hasOwn(session.streams, id) ? session.streams[id] : null;
}

export function noteOf(session, id) {
  return Object.hasOwn(session.notes, id) ? session.notes[id] : {};
}

/** Streams that are being read, and of which something is held. */
export function readStreams(session) {
  return Object.values(session.streams).filter((stream) => stream.end === null && stream.offset > 0);
}

/** All positions that a new connection goes on from: the session's own, and its running streams'. */
export function positions(session) {
  return [session, ...readStreams(session)].map(position);
}

/** The text of a message's content. */
export function textOf(content) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return content.map((part) => (part.type === "text" ? part.text : "[image]")).join("\n");
}

/** Take one frame of the session or of its streams (changed in place) and say what became of it. */
export function take(session, frame) {
  if (!isOwn(session, frame)) {
    const stream = streamOf(session, frame.stream);
    return stream === null ? Verdict.IGNORED : apply(stream, frame);
  }
  if (frame.type === "subscribed") {
    growEpoch(session, frame.epoch);
    session.waiting = false;
    return Verdict.NOTED;
  }
  if (PASSING.has(frame.type)) {
    if (frame.type === "presence") session.users = frame.users ?? [];
    return Verdict.NOTED;
  }
  if (frame.type === "snapshot" || frame.type === "ok") {
    const isState = frame.type === "snapshot" || (Array.isArray(frame.messages) && Array.isArray(frame.running));
    if (!isState || !isOffset(frame.offset ?? frame.upto)) return Verdict.IGNORED;
    replace(session, frame);
    return Verdict.REPLACED;
  }
  const verdict = session.deleted ? Verdict.IGNORED : advance(session, frame);
  if (verdict !== Verdict.APPLIED) return verdict;
  growEpoch(session, frame.epoch);
  if (Object.hasOwn(ENTRIES, frame.type)) ENTRIES[frame.type](session, frame);
  return verdict;
}

/**
 * Whether a frame is the session's own.  Its entries name it in `session`, for their `stream` may be a response stream;
 * of a response stream's entries only the first names a session, and replies have no range.
 */
export function isOwn(session, { type, session: named, stream, after }) {
  if (stream === session.id) return true;
  return named === session.id && (stream === undefined || (after !== undefined && type !== "request_start"));
}

/** Put a page of earlier messages before those that are here. */
export function addHistory(session, { messages, more }) {
  const known = new Set(session.messages.map(({ id }) => id));
  session.messages.unshift(...messages.filter(({ id }) => !known.has(id)));
  session.more = more;
}

const ENTRIES = {
  session(session, { title, system, model, created, deleted }) {
    const changed = { title, system, model, created, deleted };
    for (const [name, value] of Object.entries(changed)) if (value !== undefined && value !== null) session[name] = value;
  },
  member(session, { user, role }) {
    const known = session.members.find((member) => member.user === user);
    if (!role) session.members = session.members.filter((member) => member !== known);
    else if (known) known.role = role;
    else session.members.push({ user, role });
    if (user === session.me) session.role = role ?? null;
  },
  message(session, { message }) {
    const place = session.messages.findIndex(({ id }) => id === message.id);
    if (place === -1) session.messages.push(message);
    else session.messages[place] = message;
    const turn = session.turns.find(({ stream }) => stream === message.stream);
    // An answer that is not whole does not wait, whatever it calls.
    const calls = message.role === "assistant" && message.tool_calls?.length > 0 && !message.reason;
    if (turn !== undefined && calls) turn.state = Turn.WAITING;
  },
  turn_queued(session, frame) {
    const queue = queuedTurns(session);
    if (queue.some(({ turn }) => turn === frame.turn)) return; // from a state that is newer than this entry
    queue.splice((frame.position ?? queue.length + 1) - 1, 0, turnOf(frame, Turn.QUEUED));
    session.turns = [...busyTurns(session).filter(({ turn }) => turn !== frame.turn), ...queue];
  },
  turn_start(session, frame) {
    const behind = session.messages.at(-1)?.id; // when it started: after this message
    const started = { ...turnOf(frame, Turn.RUNNING), behind };
    session.turns = [...session.turns.filter(({ turn }) => turn !== frame.turn), started];
    addStream(session, started);
  },
  tool_start(session, { stream, call_id, user }) {
    const started = { ...noteOf(session, stream).started, [call_id]: user ?? "" };
    note(session, stream, { started });
  },
  turn_end(session, { turn, stream, by, error }) {
    session.turns = session.turns.filter((known) => known.turn !== turn);
    note(session, stream, { by, error });
  },
};

/** A turn as it is held, from `turn_queued`, `turn_start` or the list of a state. */
function turnOf({ turn, stream, model, message, user, content, interrupt, request_id, left_out }, state) {
  return { turn, stream, model, message, user, content, interrupt, request_id, left_out, state };
}

/** Begin to read what answers a turn. */
function addStream(session, { stream, left_out }, epoch = null) {
  if (streamOf(session, stream) === null) session.streams[stream] = newStream(stream, epoch);
  if (left_out) note(session, stream, { left_out });
}

function note(session, stream, fields) {
  const held = noteOf(session, stream);
  for (const [name, value] of Object.entries(fields)) if (value !== undefined && value !== null) held[name] = value;
  session.notes[stream] = held;
}

function replace(session, frame) {
  const { id, me, users, streams: held, notes } = session;
  Object.assign(session, newSession(id, me), { users, notes, opened: true });
  session.epoch = frame.epoch ?? null;
  session.offset = frame.offset ?? frame.upto;
  for (const name of STATED) if (frame[name] !== undefined && frame[name] !== null) session[name] = frame[name];
  for (const told of frame.running ?? []) {
    session.turns.push(turnOf(told, told.state));
    if (told.state === Turn.QUEUED) continue;
    if (Object.hasOwn(held, told.stream)) session.streams[told.stream] = held[told.stream];
    addStream(session, told, told.epoch ?? null);
    for (const call_id of told.started ?? []) ENTRIES.tool_start(session, { stream: told.stream, call_id });
  }
  // What was read of answers that have ended tells how fast they came.
  for (const { stream } of session.messages) if (Object.hasOwn(held, stream)) session.streams[stream] = held[stream];
}
