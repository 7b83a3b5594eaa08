// The answer that is read aloud: the one at the end of the path that is looked at, while it comes and to its end.
//
// An answer that has ended says how.  What was there when the page came back was read before.

import { type Session, type SessionMessage, busyTurns, textOf } from "@everstream/client";

import { Speaker } from "./speaker.ts";

export class Voice {
  readonly #say: (text: string) => void;
  readonly #speaker: Speaker;
  #stream: string | null = null;
  readonly #heard = new Map<string, number>(); // stream -> how many characters of it were there when the page came back

  constructor(say: (text: string) => void) {
    this.#say = say;
    this.#speaker = new Speaker(say);
  }

  /** What `session` holds of its running answers has been read. */
  skip(session: Session): void {
    for (const { stream } of busyTurns(session.state)) this.#heard.set(stream, answerOf(session, stream).length);
  }

  /** Another session is looked at, or none. */
  forget(): void {
    this.#stream = null;
    this.#say("");
  }

  /** Read this stream, which may end before its session is open. */
  begin(stream: string): void {
    this.#stream = stream;
    this.#speaker.begin(this.#heard.get(stream) ?? 0);
  }

  /** The session has changed. */
  change(session: Session): void {
    if (session.id === null) return;
    const stream = this.#stream;
    if (stream !== null && session.state.opened) {
      const turn = busyTurns(session.state).find((busy) => busy.stream === stream);
      if (turn?.state !== "running") {
        this.#speaker.finish(answerOf(session, stream), turn ? "A tool call waits." : endOf(session, stream));
        this.#stream = null;
      }
    }
    const last = session.path.at(-1)?.node;
    if (last?.turn?.state === "running" && last.key !== this.#stream) this.begin(last.key);
  }

  /** The answer may have grown. */
  follow(session: Session, now: number): void {
    if (this.#stream !== null) this.#speaker.follow(answerOf(session, this.#stream), now);
  }
}

function messageOf(session: Session, stream: string): SessionMessage | undefined {
  return session.state.messages.find((message) => message.role === "assistant" && message.stream === stream);
}

function answerOf(session: Session, stream: string): string {
  const held = session.stream(stream);
  return textOf(messageOf(session, stream)?.content) || held?.text || held?.refusal || "";
}

function endOf(session: Session, stream: string): string {
  const { by, error } = session.note(stream);
  if (error) return `Failed. ${error.message}`;
  if (messageOf(session, stream)?.reason !== "cancelled") return "The answer is complete.";
  return by && by !== session.state.me ? `Stopped by ${by}.` : "Stopped.";
}
