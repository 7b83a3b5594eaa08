// The answer that is read aloud: the one at the end of the path that is looked at, while it comes and to its end.
//
// An answer that has ended says how.  What was there when the page came back was read before.

import { Speaker } from "./follow.js";
import { Turn, busyTurns, noteOf, streamOf, textOf } from "./session.js";

export class Voice {
  #speaker;
  #region;
  #stream = null;
  #heard = new Map(); // stream -> how many characters of it were there when the page came back

  constructor(region) {
    this.#region = region;
    this.#speaker = new Speaker(region);
  }

  /** What `session` holds of its running answers has been read. */
  skip(session) {
    for (const { stream } of busyTurns(session)) this.#heard.set(stream, answerOf(session, stream).length);
  }

  /** Another session is looked at, or none. */
  forget() {
    this.#stream = null;
    this.#region.textContent = "";
  }

  /** Read this stream, which may end before its session is open. */
  begin(stream) {
    this.#stream = stream;
    this.#speaker.begin(this.#heard.get(stream) ?? 0);
  }

  /** The session has changed; `last` is the end of the path that is looked at. */
  change(session, last) {
    if (session === null) return;
    const turn = busyTurns(session).find(({ stream }) => stream === this.#stream);
    if (this.#stream !== null && session.opened && turn?.state !== Turn.RUNNING) {
      const answer = answerOf(session, this.#stream);
      this.#speaker.finish(answer, turn ? "A tool call waits." : endOf(session, this.#stream));
      this.#stream = null;
    }
    if (last?.turn?.state === Turn.RUNNING && last.key !== this.#stream) this.begin(last.key);
  }

  /** The answer may have grown. */
  follow(session, now) {
    if (this.#stream !== null) this.#speaker.follow(answerOf(session, this.#stream), now);
  }
}

function messageOf(session, stream) {
  return session.messages.find((message) => message.role === "assistant" && message.stream === stream);
}

function answerOf(session, stream) {
  const held = streamOf(session, stream);
  return textOf(messageOf(session, stream)?.content) || held?.text || held?.refusal || "";
}

function endOf(session, stream) {
  const { by, error } = noteOf(session, stream);
  if (error) return `Failed. ${error.message}`;
  if (messageOf(session, stream)?.reason !== "cancelled") return "The answer is complete.";
  return by && by !== session.me ? `Stopped by ${by}.` : "Stopped.";
}
