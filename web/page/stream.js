// One response stream as a reader holds it: a pure reducer.
//
// A stream is a list of entries; a reader's place in it is its position (epoch, offset).  A frame covers the half-open
// range (after, upto].  At offset n a reader applies the frame with `after` = n, ignores one with `upto` <= n, and asks
// again from n when there is a hole.  So frames may come twice, or late, or from another server: the text is the same.
// The state is plain data: it can be stored as JSON and taken up again after a reload.
//
//   after == n            APPLIED    the position becomes `upto`
//   upto <= n, or ended   IGNORED    seen before
//   anything else         HOLE       subscribe again from the position
//
// `revision` goes up whenever what was shown before is replaced (a snapshot, a seam that starts over): a view that
// appends compares it and begins anew.

export const Verdict = Object.freeze({ APPLIED: "applied", IGNORED: "ignored", HOLE: "hole" });

// Entries that hold a piece of what the model said.  One piece is about one token.
const CONTENT = new Set(["delta_text", "delta_thinking", "delta_tool_call", "delta_refusal"]);
// request_start, headers_received and first_token come before the content: a snapshot does not count pieces.
const ENTRIES_BEFORE_CONTENT = 3;

/** A stream of which nothing was read yet. */
export function newStream(id, epoch = 0) {
  return {
    id,
    epoch,
    offset: 0,
    text: "",
    thinking: "",
    refusal: "",
    tool_calls: [],
    seams: [], // {at: length of the text before it, epoch, reason, continuation, check}
    pieces: 0,
    ttft_ms: null,
    end: null,
    revision: 0,
  };
}

/** The position to resume from, as a command's fields.  At the very start none is sent: "from the start". */
export function position(stream) {
  if (stream.offset === 0) return { stream: stream.id };
  return { stream: stream.id, epoch: stream.epoch, offset: stream.offset };
}

/** Take one frame of this stream into `stream` (changed in place) and say what became of it. */
export function apply(stream, frame) {
  if (frame.type === "subscribed") {
    // The server found our position in its history: from here on we share its epoch.
    stream.epoch = Math.max(stream.epoch, frame.epoch);
    return Verdict.APPLIED;
  }
  if (frame.type === "snapshot") {
    replace(stream, frame);
    return Verdict.APPLIED;
  }
  if (stream.end !== null || frame.upto <= stream.offset) return Verdict.IGNORED;
  if (frame.after !== stream.offset) return Verdict.HOLE;
  stream.offset = frame.upto;
  if (CONTENT.has(frame.type)) stream.pieces += frame.upto - frame.after;
  const entry = ENTRIES[frame.type];
  if (entry !== undefined) entry(stream, frame); // an entry of a kind we do not know still has its place
  return Verdict.APPLIED;
}

const ENTRIES = {
  first_token(stream, frame) {
    stream.ttft_ms ??= frame.ttft_ms;
  },
  delta_text(stream, frame) {
    stream.text += frame.text;
  },
  delta_thinking(stream, frame) {
    stream.thinking += frame.text;
  },
  delta_refusal(stream, frame) {
    stream.refusal += frame.text;
  },
  delta_tool_call(stream, frame) {
    let call = stream.tool_calls.find((known) => known.index === frame.index);
    if (call === undefined) {
      call = { index: frame.index, call_id: null, name: null, arguments: "" };
      stream.tool_calls.push(call);
      stream.tool_calls.sort((one, other) => one.index - other.index);
    }
    call.call_id ??= frame.call_id ?? null;
    call.name ??= frame.name ?? null;
    call.arguments += frame.arguments;
  },
  seam(stream, frame) {
    stream.epoch = Math.max(stream.epoch, frame.epoch);
    if (frame.continuation === "restart") clear(stream);
    const { epoch, reason, continuation, check } = frame;
    stream.seams.push({ at: stream.text.length, epoch, reason, continuation, check });
  },
  stream_end(stream, frame) {
    stream.end = endOf(frame);
  },
};

function clear(stream) {
  stream.text = "";
  stream.thinking = "";
  stream.refusal = "";
  stream.tool_calls = [];
  stream.seams = [];
  stream.pieces = 0;
  stream.revision += 1;
}

function replace(stream, frame) {
  clear(stream);
  stream.epoch = frame.epoch;
  stream.offset = frame.upto;
  stream.text = frame.text;
  stream.thinking = frame.thinking;
  stream.refusal = frame.refusal ?? "";
  stream.tool_calls = frame.tool_calls.map((call) => ({ ...call }));
  stream.pieces = Math.max(0, frame.upto - ENTRIES_BEFORE_CONTENT);
  stream.end = frame.end ? endOf(frame.end) : null;
}

function endOf({ reason, finish_reason, usage, cost, metrics, error, warnings }) {
  return { reason, finish_reason, usage, cost, metrics, error, warnings };
}
