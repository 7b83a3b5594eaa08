// How fast text appears.  A provider sends it in bursts; an eye would rather have it at an even pace, a word at a time.
//
// What has come and is not shown yet is the backlog.  The pace is such that the backlog would be gone after a quarter
// of a second, and it changes gently: so text is shown about a quarter of a second after it came, however bursts come,
// and a large backlog is caught up with quickly, but in motion.  After the end the rest follows at once.
//
// A pure function of the state before and the time: what is drawn, and when, is the matter of `shown.ts`.

const BEHIND_MS = 250; // how far the text shown is behind, on average
const GENTLE_MS = 80; // how quickly the pace may change
const END_MS = 250; // after this long nothing is held back any more
const FRAME_MOST_MS = 100; // a longer gap was no frame: nobody saw it
const SLOWEST = 0.03; // characters a millisecond
const WORD_CHARACTERS = 32; // a longer word, or one of a script without spaces, is shown in parts

export interface Pace {
  /** How much is shown, in UTF-16 units; the fraction is what is due. */
  shown: number;
  /** Units a millisecond. */
  speed: number;
  /** When this was; milliseconds of any clock. */
  at: number;
  /** When the text was seen to have ended, or null. */
  endedAt: number | null;
}

export function newPace(shown: number, now: number): Pace {
  return { shown, speed: 0, at: now, endedAt: null };
}

/** The pace at `now`, of a text of `length` units that has `ended` or not. */
export function paced(pace: Pace, length: number, ended: boolean, now: number): Pace {
  const passed = Math.min(Math.max(0, now - pace.at), FRAME_MOST_MS);
  const backlog = length - pace.shown;
  if (backlog <= 0) return { shown: length, speed: pace.speed * Math.exp(-passed / BEHIND_MS), at: now, endedAt: null };
  const endedAt = ended ? (pace.endedAt ?? now) : null;
  let wanted = Math.max(backlog / BEHIND_MS, SLOWEST);
  if (endedAt !== null) wanted = Math.max(wanted, pace.speed, backlog / Math.max(1, endedAt + END_MS - now));
  const speed = endedAt === null ? pace.speed + (wanted - pace.speed) * (1 - Math.exp(-passed / GENTLE_MS)) : wanted;
  const isOver = endedAt !== null && now - endedAt >= END_MS;
  return { shown: isOver ? length : Math.min(length, pace.shown + speed * passed), speed, at: now, endedAt };
}

/** The largest place of `text` up to `most` at which no word and no character is cut. */
export function wordEnd(text: string, most: number): number {
  const limit = Math.floor(most);
  if (limit >= text.length) return text.length;
  if (limit <= 0) return 0;
  if (isSpace(text, limit)) return limit;
  for (let place = limit; place > Math.max(0, limit - WORD_CHARACTERS); place--) {
    if (isSpace(text, place - 1)) return place;
  }
  return graphemeEnd(text, limit);
}

function isSpace(text: string, place: number): boolean {
  return /\s/.test(text.charAt(place));
}

const graphemes = new Intl.Segmenter(undefined, { granularity: "grapheme" });

function graphemeEnd(text: string, limit: number): number {
  let from = Math.max(0, limit - 2 * WORD_CHARACTERS);
  const first = text.charCodeAt(from);
  if (first >= 0xdc00 && first <= 0xdfff) from += 1; // not into the middle of a pair
  let end = from;
  for (const { index, segment } of graphemes.segment(text.slice(from, limit + WORD_CHARACTERS))) {
    const next = from + index + segment.length;
    if (next > limit) break;
    end = next;
  }
  return end;
}
