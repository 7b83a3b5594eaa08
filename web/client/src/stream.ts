// One response stream as a reader holds it: a pure reducer.  Sessions (session.ts) keep their place by the same rule.
//
// A stream is a list of entries; a reader's place in it is its position (epoch, offset).  A frame covers the half-open
// range (after, upto].  At offset n a reader applies the frame with `after` = n, ignores one with `upto` <= n, and asks
// again from n when there is a hole.  So frames may come twice, or late, or from another server: the text is the same.
// The state is plain data: it can be stored as JSON and taken up again after a reload.
//
//   after == n            APPLIED    the position becomes `upto`
//   upto <= n, or ended   IGNORED    seen before
//   snapshot              REPLACED   it stands for all entries up to `upto`
//   subscribed, accepted  NOTED      the epoch may grow, never shrink: an old reply may be read late
//   anything else         HOLE       subscribe again from the position
//
// After a hole, entries are ignored until the answer (subscribed, snapshot) has come, even one that would fit: it was
// sent before the server knew where we stand, and whatever follows our position comes again.
//
// `revision` goes up whenever what was shown before is replaced (a snapshot, a seam that starts over): a view that
// appends compares it and begins anew.

import type {
  CalledTool,
  DeltaToolCallEntry,
  Entry,
  Envelope,
  Frame,
  SeamEntry,
  Snapshot,
  StreamEnd,
} from "./frames.ts";

export const Verdict = {
  APPLIED: "applied",
  IGNORED: "ignored",
  REPLACED: "replaced",
  NOTED: "noted",
  HOLE: "hole",
} as const;
export type Verdict = (typeof Verdict)[keyof typeof Verdict];

/** A place to read on from.  Without `epoch` and `offset`: from the start. */
export interface Position {
  stream: string;
  epoch?: number | null;
  offset?: number;
}

/** What says where an entry stands, and is no part of what it says. */
type Placed = "type" | "stream" | "after" | "upto";

/** A tool call as far as it has come. */
export type HeldCall = CalledTool;

/** Where another node or another call went on.  `at` is the length of the text before it. */
export interface Seam extends Omit<SeamEntry, Placed> {
  at: number;
}

export interface StreamState {
  id: string;
  epoch: number | null;
  offset: number;
  /** A hole was asked about, or a resume: the answer is on its way. */
  waiting: boolean;
  text: string;
  thinking: string;
  refusal: string;
  /** By index. */
  tool_calls: HeldCall[];
  seams: Seam[];
  /** About how many tokens have come. */
  pieces: number;
  ttft_ms: number | null;
  end: StreamEnd | null;
  revision: number;
}

// Entries that hold a piece of what the model said.  One piece is about one token.
const CONTENT: ReadonlySet<string> = new Set(["delta_text", "delta_thinking", "delta_tool_call", "delta_refusal"]);
// request_start, headers_received and first_token come before the content: a snapshot does not count pieces.
const ENTRIES_BEFORE_CONTENT = 3;

/** A stream of which nothing was read yet. */
export function newStream(id: string, epoch: number | null = null): StreamState {
  return {
    id,
    epoch,
    offset: 0,
    waiting: false,
    text: "",
    thinking: "",
    refusal: "",
    tool_calls: [],
    seams: [],
    pieces: 0,
    ttft_ms: null,
    end: null,
    revision: 0,
  };
}

/** The position to resume from, as a command's fields.  At the very start none is sent: "from the start". */
export function position(place: { id: string; epoch: number | null; offset: number }): Position {
  if (place.offset === 0) return { stream: place.id };
  return { stream: place.id, epoch: place.epoch, offset: place.offset };
}

/** Take one frame into `stream` (changed in place) and say what became of it. */
export function applyFrame(stream: StreamState, frame: Frame): Verdict {
  if (frame.stream !== stream.id) return Verdict.IGNORED;
  if (frame.type === "subscribed" || frame.type === "accepted") {
    growEpoch(stream, frame.epoch);
    if (frame.type === "subscribed") stream.waiting = false;
    return Verdict.NOTED;
  }
  if (frame.type === "snapshot" && isOffset(frame.upto)) {
    replace(stream, frame as Snapshot);
    return Verdict.REPLACED;
  }
  const verdict = stream.end === null ? advance(stream, frame) : Verdict.IGNORED;
  if (verdict !== Verdict.APPLIED) return verdict;
  const { type, after = 0, upto = 0 } = frame;
  if (CONTENT.has(type)) stream.pieces += upto - after;
  take(stream, frame as Entry);
  return verdict;
}

/** The rule of all streams: whether the entries of `frame` are the next ones of `place`, which then moves. */
export function advance(place: { offset: number; waiting: boolean }, frame: Envelope): Verdict {
  const { after, upto } = frame;
  if (!isOffset(upto) || !isOffset(after) || after >= upto) return Verdict.IGNORED;
  if (place.waiting || upto <= place.offset) return Verdict.IGNORED;
  if (after !== place.offset) {
    place.waiting = true;
    return Verdict.HOLE;
  }
  place.offset = upto;
  return Verdict.APPLIED;
}

/** Drop what is held: the stream is read from its start. */
export function startOver(stream: StreamState, epoch: number | null = null): void {
  clear(stream);
  Object.assign(stream, { epoch, offset: 0, waiting: false, ttft_ms: null, end: null });
}

/** What an entry says.  An unknown one says nothing, but has its place. */
function take(stream: StreamState, frame: Entry): void {
  switch (frame.type) {
    case "request_start":
      return growEpoch(stream, frame.epoch);
    case "first_token":
      stream.ttft_ms ??= frame.ttft_ms;
      return;
    case "delta_text":
      stream.text += frame.text;
      return;
    case "delta_thinking":
      stream.thinking += frame.text;
      return;
    case "delta_refusal":
      stream.refusal += frame.text;
      return;
    case "delta_tool_call":
      return takeCall(stream, frame);
    case "seam":
      growEpoch(stream, frame.epoch);
      if (frame.continuation === "restart") clear(stream);
      stream.seams.push({ at: stream.text.length, ...said(frame) });
      return;
    case "stream_end":
      stream.end = said(frame);
  }
}

function takeCall(stream: StreamState, frame: DeltaToolCallEntry): void {
  let call = stream.tool_calls.find((known) => known.index === frame.index);
  if (call === undefined) {
    call = { index: frame.index, call_id: null, name: null, arguments: "" };
    stream.tool_calls.push(call);
    stream.tool_calls.sort((one, other) => one.index - other.index);
  }
  call.call_id ??= frame.call_id ?? null;
  call.name ??= frame.name ?? null;
  call.arguments += frame.arguments;
}

function clear(stream: StreamState): void {
  stream.text = "";
  stream.thinking = "";
  stream.refusal = "";
  stream.tool_calls = [];
  stream.seams = [];
  stream.pieces = 0;
  stream.revision += 1;
}

function replace(stream: StreamState, frame: Partial<Snapshot> & { upto: number }): void {
  clear(stream);
  stream.epoch = frame.epoch ?? null;
  stream.offset = frame.upto;
  stream.waiting = false;
  stream.text = frame.text ?? "";
  stream.thinking = frame.thinking ?? "";
  stream.refusal = frame.refusal ?? "";
  stream.tool_calls = (frame.tool_calls ?? []).map((call) => ({ ...call }));
  stream.pieces = Math.max(0, frame.upto - ENTRIES_BEFORE_CONTENT);
  stream.end = frame.end ? said(frame.end) : null;
}

/** The fields of an entry without those that say where it stands. */
function said<T extends object>(frame: T): Omit<T, Placed> {
  const { type, stream, after, upto, ...fields } = frame as T & Record<Placed, unknown>;
  return fields;
}

/** Take up a later reign.  An earlier one is read late. */
export function growEpoch(place: { epoch: number | null }, epoch: number | null | undefined): void {
  if (isOffset(epoch) && (place.epoch === null || epoch > place.epoch)) place.epoch = epoch;
}

export function isOffset(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
