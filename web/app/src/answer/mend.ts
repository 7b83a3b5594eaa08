// The end of a text that is still coming, as it will probably be: what has begun is ended, what says nothing yet is
// left out.
//
// A model writes `**bold**` a piece at a time.  Shown as it stands, the stars would be seen until the last of them has
// come. So what is open at the end is closed before it is read: emphasis, code, the address of a link, the line that
// makes a table of what stands before it.  It is a guess for one frame of the screen, and the next piece may undo it;
// nothing is kept of it.
//
// Only the text behind the last empty line is looked at: nothing within a line of text reaches further.

// What a line begins with that may become a list, a heading, a rule, a fence …
const FIRST_OF_LINE = /^[ \t>]*(?:[-*+=#>~`|:_]+|\d{1,3}[.)])[ \t]*$/;
const FIRST_CHARACTERS = 40; // a longer line is none of these
const BEGUN = /(?:&[a-z0-9#]{0,10}|<\/?[a-z]{0,5}|\\|!?\[)$/i; // may become an entity, a tag, a link …
const OPEN_MOST = 8; // marks: nobody means more of them at once
const WAITED_CHARACTERS = 4_000; // a longer paragraph is not looked at from its beginning

/** `source` with what has begun at its end brought to an end. */
export function mended(source: string): string {
  const line = source.slice(source.lastIndexOf("\n") + 1);
  const isFirst = line.length <= FIRST_CHARACTERS && FIRST_OF_LINE.test(line);
  const cut = isFirst ? source.slice(0, source.length - line.length) : source;
  const from = Math.max(paragraphStart(cut), cut.length - WAITED_CHARACTERS);
  const last = cut.slice(from);
  const table = asTable(last);
  if (table !== null) return cut.slice(0, from) + table;
  const lineStart = last.lastIndexOf("\n") + 1;
  if (/^(?: {4}|\t)/.test(last.slice(lineStart)) && !/^[ \t]*(?:[-*+]|\d)/.test(last)) return cut; // code, perhaps
  return cut.slice(0, from) + closed(last);
}

/** Where the last item or paragraph begins. */
function paragraphStart(source: string): number {
  const from = Math.max(0, source.length - WAITED_CHARACTERS);
  const blank = [...source.slice(from).matchAll(/\n[ \t]*\n/g)].at(-1);
  const behind = blank === undefined ? 0 : from + blank.index + blank[0].length;
  const rest = source.slice(behind);
  const item = [...rest.matchAll(/(?:^|\n)[ \t>]*(?:[-*+]|\d{1,9}[.)]|#{1,6}) /g)].at(-1);
  return behind + (item?.index ?? 0);
}

/** The head of a table, with the line below it that makes it one; null: this is none. */
function asTable(paragraph: string): string | null {
  const [, space = "", head = "", below] = /^(\n*)(\|[^\n]+)(?:\n([|:\- \t]*))?$/.exec(paragraph) ?? [];
  if (head === "" || (below !== undefined && !/.\|/.test(head))) return null;
  const cells = head.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/);
  if (below !== undefined && below !== "" && !/^[ \t]*[|:-]/.test(below)) return null;
  return `${space}| ${cells.map((cell) => closed(cell).trim()).join(" | ")} |\n|${" --- |".repeat(cells.length)}`;
}

/** Something that is open, and where it began. */
interface Mark {
  mark: string;
  at: number;
}

/** Close what is open in a row of words. */
function closed(words: string): string {
  const open: Mark[] = [];
  let text = words.replace(BEGUN, "");
  let link: { at: number; address: number } | null = null;
  const brackets: number[] = [];
  for (let at = 0; at < text.length; at++) {
    const character = text[at] ?? "";
    if (character === "\\") at++;
    else if (character === "`") at = behindCode(text, at, open);
    else if (character === "[") brackets.push(at);
    else if (character === "]") {
      const begun = brackets.pop();
      if (begun === undefined) continue;
      if (text[at + 1] !== "(") {
        if (at + 1 === text.length && text[begun - 1] === "!") brackets.push(begun);
        continue;
      }
      const end = text.indexOf(")", at);
      if (end === -1) {
        link = { at: text[begun - 1] === "!" ? begun - 1 : begun, address: at };
        break;
      }
      at = end;
    } else if (character === "*" || character === "_" || character === "~") {
      const mark = runAt(text, at);
      toggle(open, { mark, at }, text[at - 1] ?? " ", text[at + mark.length] ?? "");
      at += mark.length - 1;
    }
  }
  const picture = brackets.findLast((begun) => text[begun - 1] === "!");
  if (link === null && picture !== undefined) {
    link = { at: picture - 1, address: text.endsWith("]") ? text.length - 1 : text.length };
  }
  if (link !== null) text = text.slice(0, link.at) + text.slice(link.at, link.address).replace(/^!?\[/, "");
  return ended(text, open);
}

/** Behind a code span that begins at `at`; where it has no end, it is noted as open, and nothing else counts. */
function behindCode(text: string, at: number, open: Mark[]): number {
  const mark = runAt(text, at);
  let end = at + mark.length;
  for (;;) {
    end = text.indexOf(mark, end);
    if (end === -1) break;
    const found = runAt(text, end);
    if (found === mark) return end + mark.length - 1;
    end += found.length;
  }
  open.push({ mark, at });
  return text.length;
}

function runAt(text: string, at: number): string {
  let end = at + 1;
  while (text[end] === text[at]) end++;
  return text.slice(at, end);
}

/** A run of stars, lines or tildes ends what it has begun, or begins something, as the characters beside it allow. */
function toggle(open: Mark[], { mark, at }: Mark, before: string, after: string): void {
  if (mark[0] === "~" && mark.length !== 2) return;
  const inWord = /[\p{L}\p{N}]/u.test(before) && /[\p{L}\p{N}]/u.test(after);
  if (mark[0] === "_" && inWord) return;
  let left = mark;
  while (left !== "" && !/\s/.test(before)) {
    const last = open.at(-1);
    if (last === undefined || !left.startsWith(last.mark)) break;
    open.pop();
    left = left.slice(last.mark.length);
  }
  if (left === "" || left.length > 3 || /\s/.test(after)) return;
  if (left.length === 3) open.push({ mark: left.slice(0, 1), at }, { mark: left.slice(1), at: at + 1 });
  else open.push({ mark: left, at: at + mark.length - left.length });
}

/** The text with its open marks closed, before the space that it ends with. */
function ended(text: string, open: Mark[]): string {
  if (open.length > OPEN_MOST) return text;
  let kept = text.trimEnd();
  const space = text.slice(kept.length);
  // A mark that nothing follows yet says nothing yet; nor does a half of the mark that will end it.
  for (let last = open.at(-1); last !== undefined && last.at + last.mark.length >= kept.length; last = open.at(-1)) {
    kept = kept.slice(0, last.at);
    open.pop();
  }
  if (open.at(-1)?.mark === "~~" && kept.endsWith("~")) kept = kept.slice(0, -1);
  return kept + open.toReversed().map(({ mark }) => mark).join("") + space;
}
