// When to come back: full jitter below a ceiling that doubles, so that a thousand clients of one lost server spread
// out.

export const BACKOFF_FIRST_MS = 250;
export const BACKOFF_MOST_MS = 15_000;
/** A connection that lived this long makes the next wait start small again. */
export const SETTLED_MS = 5_000;
const DOUBLINGS_MOST = 16;

/** Milliseconds to wait before attempt number `attempt` (0 is the first). */
export function backoffMs(attempt: number, random: () => number): number {
  return random() * Math.min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempt, DOUBLINGS_MOST));
}
