// What is thrown: a command that was refused, or that could not be answered.

/** The code of a command whose answer was lost with its connection: it may have been carried out, or not. */
export const LOST = "connection.lost";
/** The code of what needs a connection that nobody wants: `open()` was not called. */
export const CLOSED = "connection.closed";

/** Codes that are the client's own: the server has not answered. */
export type LocalCode = typeof LOST | typeof CLOSED;

export interface Failure {
  code: string;
  message: string;
  retryable?: boolean;
  retry_after_ms?: number | null;
  stream?: string | null;
  session?: string | null;
}

/** A command was answered by an error frame (`code` is of the protocol's table), or not at all (`connection.lost`). */
export class CommandError extends Error {
  override readonly name = "CommandError";
  readonly code: string;
  /** Whether saying the same again can help; `retry_after_ms`: in that many milliseconds, where somebody said so. */
  readonly retryable: boolean;
  readonly retry_after_ms: number | null;
  /** What could not be read, where the server says so. */
  readonly stream: string | null;
  readonly session: string | null;

  constructor({ code, message, retryable = false, retry_after_ms = null, stream = null, session = null }: Failure) {
    super(message);
    this.code = code;
    this.retryable = retryable;
    this.retry_after_ms = retry_after_ms;
    this.stream = stream;
    this.session = session;
  }
}

/** There was no connection, or it was lost before the answer had come: asking again can help. */
export function lost(message = "The connection was lost."): CommandError {
  return new CommandError({ code: LOST, message, retryable: true });
}

/** What was handed over piece by piece is void.  `text` stands in its place: asking for text again begins with it. */
export class TextWithdrawn extends Error {
  override readonly name = "TextWithdrawn";
  readonly text: string;

  constructor(text: string) {
    super("The text that came so far was withdrawn: the answer began anew.");
    this.text = text;
  }
}
