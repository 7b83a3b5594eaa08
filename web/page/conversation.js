// The conversation as the page holds it: turns, each a prompt and the stream that answers it.
//
// The server keeps the streams; the page keeps the conversation and sends it whole with each prompt.  It is stored in
// sessionStorage, which is a tab's own and survives a reload: two tabs cannot write over each other.  A running turn is
// stored with its stream as it stands (position and text together, so that they always fit each other), and goes on
// from there.  When the store is full, the running stream is stored as "from the start": the server has all of it.
//
//   sending  --accepted-->  running  --stream_end, error-->  ended
//      |  the request may have arrived or not: it is sent again with the same id, and starts nothing twice

import { newStream } from "./stream.js";

const STORAGE_KEY = "everstream.turns.1";
const TURNS_MOST = 200;
const FRAME_SPARE_BYTES = 4_096; // what a generate command holds beside its messages

export const Phase = Object.freeze({ SENDING: "sending", RUNNING: "running", ENDED: "ended" });

/** A turn that was not sent yet. */
export function newTurn(prompt, model, params) {
  return {
    request_id: randomId(),
    prompt,
    model,
    params,
    phase: Phase.SENDING,
    sends: 0,
    stopping: false,
    asked_at: Date.now(),
    stream: null,
    error: null, // {code, message, retryable} of a turn that failed outside its stream
    left_out: 0, // messages at the beginning of the conversation that no longer fitted into a command
  };
}

/** What the model said in `turn`, or "" when it said nothing. */
export function answerOf(turn) {
  return turn.stream === null ? "" : turn.stream.text || turn.stream.refusal;
}

/** Whether the turn is over without the whole answer: asking once more makes sense. */
export function canAskAgain(turn) {
  if (turn.phase !== Phase.ENDED) return false;
  return turn.error !== null || turn.stream?.end?.reason !== "complete";
}

/**
 * The generate command of the last of `turns`.  A prompt that got no answer is left out, since models expect the
 * two to alternate; so are the oldest turns when all of them do not fit into `limitBytes`.  `leftOut` counts those
 * messages.  Null when not even the prompt fits.
 */
export function commandOf(turns, limitBytes) {
  const asked = turns.at(-1);
  const pairs = turns
    .slice(0, -1)
    .filter((turn) => answerOf(turn) !== "")
    .map((turn) => [
      { role: "user", content: turn.prompt },
      { role: "assistant", content: answerOf(turn) },
    ]);
  const sizes = pairs.map(sizeBytes);
  const last = { role: "user", content: asked.prompt };
  let room = limitBytes - FRAME_SPARE_BYTES - sizeBytes([last, asked.params]);
  if (room < 0) return null;
  let first = pairs.length;
  while (first > 0 && sizes[first - 1] <= room) room -= sizes[--first];
  const command = {
    type: "generate",
    request_id: asked.request_id,
    model: asked.model,
    messages: [...pairs.slice(first).flat(), last],
    params: asked.params,
  };
  return { command, leftOut: 2 * first };
}

/** Store `turns`.  Never throws: a page that may not store anything still works until it is reloaded. */
export function save(storage, turns) {
  const kept = turns.slice(-TURNS_MOST);
  const attempts = [
    () => kept,
    () => kept.map((turn) => (turn.phase === Phase.RUNNING ? readAgain(turn) : turn)),
    () => kept.slice(-1).map((turn) => (turn.stream === null ? turn : readAgain(turn))),
  ];
  for (const attempt of attempts) {
    try {
      storage.setItem(STORAGE_KEY, JSON.stringify(attempt()));
      return;
    } catch {
      // Full, or forbidden: try with less.
    }
  }
}

/** The stored turns, or none. */
export function load(storage) {
  try {
    const turns = JSON.parse(storage.getItem(STORAGE_KEY) ?? "[]");
    return Array.isArray(turns) ? turns : [];
  } catch {
    return [];
  }
}

/** The turn without its text: after a reload its stream is read from the start. */
function readAgain(turn) {
  return { ...turn, phase: Phase.RUNNING, stream: newStream(turn.stream.id, turn.stream.epoch) };
}

function sizeBytes(value) {
  return new TextEncoder().encode(JSON.stringify(value)).length;
}

function randomId() {
  // crypto.randomUUID exists on secure origins only; a page served over plain HTTP in a local network is none.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
