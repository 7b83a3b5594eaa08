// What is thrown: a command that was refused, or that could not be answered.

/** The code of a command whose answer was lost with its connection: it may have been carried out, or not. */
export const LOST = "connection.lost";

/** Codes that are the client's own: the server has not answered. */
export type LocalCode = typeof LOST;

export interface Failure {
  code: string;
  message: string;
  retryable?: boolean;
  retry_after_ms?: number | null;
}

/** A command was answered by an error frame (`code` is of the protocol's table), or not at all (`connection.lost`). */
export class CommandError extends Error {
  override readonly name = "CommandError";
  readonly code: string;
  /** Whether saying the same again can help; `retry_after_ms`: in that many milliseconds, where somebody said so. */
  readonly retryable: boolean;
  readonly retry_after_ms: number | null;

  constructor({ code, message, retryable = false, retry_after_ms = null }: Failure) {
    super(message);
    this.code = code;
    this.retryable = retryable;
    this.retry_after_ms = retry_after_ms;
  }
}

/** There was no connection, or it was lost before the answer had come: asking again can help. */
export function lost(message = "The connection was lost."): CommandError {
  return new CommandError({ code: LOST, message, retryable: true });
}

/** What was handed over piece by piece has been replaced: the pieces do not add up to the answer any more. */
export class TextWithdrawn extends Error {
  override readonly name = "TextWithdrawn";

  constructor(message = "The text that came so far was withdrawn: the answer began anew.") {
    super(message);
  }
}
