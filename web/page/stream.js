// One response stream as a reader holds it: a pure reducer.  Sessions (session.js) keep their place by the same rule.
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

export const Verdict = Object.freeze({
  APPLIED: "applied",
  IGNORED: "ignored",
  REPLACED: "replaced",
  NOTED: "noted",
  HOLE: "hole",
});

// Entries that hold a piece of what the model said.  One piece is about one token.
const CONTENT = new Set(["delta_text", "delta_thinking", "delta_tool_call", "delta_refusal"]);
// request_start, headers_received and first_token come before the content: a snapshot does not count pieces.
const ENTRIES_BEFORE_CONTENT = 3;

/** A stream of which nothing was read yet. */
export function newStream(id, epoch = null) {
  return {
    id,
    epoch,
    offset: 0,
    waiting: false, // a hole was asked about, or a resume: the answer is on its way
    text: "",
    thinking: "",
    refusal: "",
    tool_calls: [], // {index, call_id, name, arguments}, by index
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

/** Take one frame into `stream` (changed in place) and say what became of it. */
export function apply(stream, frame) {
  if (frame.stream !== stream.id) return Verdict.IGNORED;
  if (frame.type === "subscribed" || frame.type === "accepted") {
    growEpoch(stream, frame.epoch);
    if (frame.type === "subscribed") stream.waiting = false;
    return Verdict.NOTED;
  }
  if (frame.type === "snapshot" && isOffset(frame.upto)) {
    replace(stream, frame);
    return Verdict.REPLACED;
  }
  const verdict = stream.end === null ? advance(stream, frame) : Verdict.IGNORED;
  if (verdict !== Verdict.APPLIED) return verdict;
  if (CONTENT.has(frame.type)) stream.pieces += frame.upto - frame.after;
  if (Object.hasOwn(ENTRIES, frame.type)) ENTRIES[frame.type](stream, frame); // an unknown entry still has its place
  return verdict;
}

/** The rule of all streams: whether the entries of `frame` are the next ones of `place`, which then moves. */
export function advance(place, frame) {
  if (!isOffset(frame.upto) || !isOffset(frame.after) || frame.after >= frame.upto) return Verdict.IGNORED;
  if (place.waiting || frame.upto <= place.offset) return Verdict.IGNORED;
  if (frame.after !== place.offset) {
    place.waiting = true;
    return Verdict.HOLE;
  }
  place.offset = frame.upto;
  return Verdict.APPLIED;
}

/** Drop what is held: the stream is read from its start. */
export function startOver(stream, epoch = null) {
  clear(stream);
  Object.assign(stream, { epoch, offset: 0, waiting: false, ttft_ms: null, end: null });
}

const ENTRIES = {
  request_start(stream, frame) {
    growEpoch(stream, frame.epoch);
  },
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
    growEpoch(stream, frame.epoch);
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
  stream.waiting = false;
  stream.text = frame.text ?? "";
  stream.thinking = frame.thinking ?? "";
  stream.refusal = frame.refusal ?? "";
  stream.tool_calls = (frame.tool_calls ?? []).map((call) => ({ ...call }));
  stream.pieces = Math.max(0, frame.upto - ENTRIES_BEFORE_CONTENT);
  stream.end = frame.end ? endOf(frame.end) : null;
}

/** The fields of `stream_end` without those that say where it stands. */
function endOf({ type, stream, after, upto, ...fields }) {
  return fields;
}

export function growEpoch(stream, epoch) {
  if (isOffset(epoch) && (stream.epoch === null || epoch > stream.epoch)) stream.epoch = epoch;
}

export function isOffset(value) {
  return Number.isSafeInteger(value) && value >= 0;
}
