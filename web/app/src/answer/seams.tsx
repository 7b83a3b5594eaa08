// Seams: where an answer was carried on by another server or another call.
//
// A seam lies at a place of the text, which then is read as Markdown.  So it travels as a character of its own, one
// that text never has (U+FDD0 and those behind it are no characters), and is drawn where that turns up.  The mark goes
// where a word ends, and not into a line that is made of signs alone or into an address: there it would change what
// they mean.  While no such place has come yet, the mark stands behind the answer: text that was shown never changes.

import type { Seam } from "@everstream/client";
import type { JSX } from "preact";

const FIRST = 0xfdd0;
const MOST = 32;
const MARKS = /[\ufdd0-\ufdef]/g;
const SIGNS_ONLY = /^(?![\d\s]+$)[\s|:\-=`~*_#>+.\d)]*$/;
const FENCE_OR_ADDRESS = /^ {0,3}(?:```|~~~|\[[^\]]*\]:)/;
const WORD_CHARACTERS = 200;
const TRIES = 200; // words that are looked at: a text of nothing but signs has no place for a mark

export type { Seam };

/** `text` without marks. */
export function unmarked(text: string): string {
  return text.replace(MARKS, "");
}

/** Pieces of text, and between them the numbers of the seams that lie there. */
export function pieces(text: string): (string | number)[] {
  const found: (string | number)[] = [];
  let from = 0;
  for (const { 0: mark, index } of text.matchAll(MARKS)) {
    if (index > from) found.push(text.slice(from, index));
    found.push(mark.charCodeAt(0) - FIRST);
    from = index + 1;
  }
  if (from < text.length) found.push(text.slice(from));
  return found;
}

export interface MarkedText {
  text: string; // with the marks in it
  before: number[]; // seams that lie before all text
  behind: number[]; // seams whose place has not come yet
}

/** Put the marks of `seams` into `text`.  What is marked only grows while `text` does. */
export function markSeams(text: string, seams: readonly Seam[], live: boolean): MarkedText {
  if (seams.length === 0) return { text, before: [], behind: [] };
  const said = text.replace(MARKS, "\ufffd");
  const found: MarkedText = { text: "", before: [], behind: [] };
  let from = 0;
  for (const [number, { at }] of seams.entries()) {
    const place = at === 0 ? 0 : placeFrom(said, Math.max(at, from), live);
    if (at === 0) found.before.push(number);
    else if (place === null) found.behind.push(number);
    else {
      found.text += said.slice(from, place) + String.fromCharCode(FIRST + Math.min(number, MOST - 1));
      from = place;
    }
  }
  found.text += said.slice(from);
  return found;
}

/** The end of the first word from `at` on, where a mark does no harm; null: there is none (yet). */
function placeFrom(text: string, at: number, live: boolean): number | null {
  for (let place = at, tries = 0; place <= text.length && tries < TRIES; place++, tries++) {
    const space = text.slice(place).search(/\s/);
    if (space === -1 && live) return null;
    const end = space === -1 ? text.length : place + space;
    const lineEnd = text.indexOf("\n", end);
    const line = text.slice(text.lastIndexOf("\n", end - 1) + 1, lineEnd === -1 ? text.length : lineEnd);
    const isSigns = SIGNS_ONLY.test(line) || FENCE_OR_ADDRESS.test(line);
    if (!isSigns && isWord(text.slice(0, end).slice(-WORD_CHARACTERS))) return end;
    if (space === -1) return null;
    place = isSigns && lineEnd !== -1 ? lineEnd : end;
  }
  return null;
}

/** Whether a mark may stand behind the word that these characters end with. */
function isWord(characters: string): boolean {
  const [word = ""] = /\S+$/.exec(characters) ?? [];
  if (/^\d+$/.test(word)) return true;
  return /[\p{L}\p{N}.,;:!?]$/u.test(word) && !/^[\d.)]+$|:\/|@|www\./.test(word);
}

// ------------------------------------------------------------------ what is said of one

const CAUSES: Record<string, string> = {
  node_lost: "after a server loss",
  drain: "when a server was stopped",
  provider_lost: "after the provider broke off",
};
const HOW: Record<string, string> = {
  exact: "The model went on from the very state where it had been.",
  prefill: "The model was given its own words and went on behind them.",
  prompted: "The model was asked to go on where it had broken off.",
  restart: "The answer began anew.",
};
const CHECKS: Record<string, string> = {
  verified: "That nothing is missing or said twice was verified.",
  heuristic: "Where both parts meet was found by comparing them.",
  unverified: "Whether something is missing or said twice here was not verified.",
};

export function seamLabel({ reason, continuation, check }: Seam): string {
  const cause = CAUSES[reason] ?? "";
  if (continuation === null) return `broken off here ${cause}`.trim();
  const how = continuation === "restart" ? "started again" : "carried on";
  return `${how} ${cause}`.trim() + (check === "unverified" ? " (join not verified)" : "");
}

function seamDetails({ continuation, check }: Seam): string {
  return [HOW[continuation ?? ""], CHECKS[check ?? ""]].filter((text) => text !== undefined).join(" ");
}

/** The mark is drawn by the style sheet, and what is to be known about it: so copying the answer copies the answer. */
export function SeamMark({ seam }: { seam: Seam }): JSX.Element {
  const label = seamLabel(seam);
  const details = seamDetails(seam);
  const spoken = details === "" ? label : `${label}. ${details}`;
  return <span class="seam" role="img" tabIndex={0} data-label={label} data-details={details} aria-label={spoken} />;
}
