// Markdown that grows: what of a text is finished, and what is still open.
//
// An answer grows at its end alone, so only its end is ever read anew.  The text is a row of blocks (paragraphs, lists,
// tables, code …).  A block is closed as soon as another one has begun behind it, with a whole line of its own: nothing
// that follows can change it.  It is not looked at again.  The last block is open, and read anew as it grows.
//
//   closed | closed | closed | open
//                            ^ the parser (marked) reads from here
//
// An open block may itself become long.  Then its beginning is closed too: items of a list, rows of a table, lines of
// code, and pieces of a paragraph are units that do not depend on what follows.
//
// Two things are known only at the end: addresses that are defined below the place that names them (`[text][name]`),
// and whether a list is loose.  So at the end the whole text is cut into blocks once more, and those that differ are
// made anew.

import { Lexer, Tokenizer, getDefaults } from "marked";
import type { Token, Tokens } from "marked";

import { unitsOf } from "./block.ts";
import type { Block, ListBlock, ParagraphBlock, TableBlock } from "./block.ts";
import { codeOf, ended, fenceAt, isClosing, keepLine, mayClose, unindented } from "./fence.ts";
import type { Fence } from "./fence.ts";
import { mended } from "./mend.ts";

const SPLIT_CHARACTERS = 1_500; // an open block this long is closed in part
const PIECE_CHARACTERS = 3_000; // of a paragraph
const PIECE_MOST = 12_000; // there it is cut, whatever is open
const CHECKED_MOST = 300_000; // characters that are read once more at the end

// So many lists and quotations in one another that reading them takes longer than anybody would look at them.
const TOO_DEEP = /^(?:[ \t]*(?:>|[-*+][ \t]|\d{1,9}[.)][ \t])){50}/m;

type Part = ListBlock | TableBlock | ParagraphBlock;

interface Found {
  block: Block;
  token: Token;
  from: number;
}

type Links = Lexer["tokens"]["links"];

export class Growing {
  /** In their order; never changed but at the end. */
  closed: Block[] = [];
  /** What follows them, made anew each time. */
  opened: Block[] = [];
  #upto = 0; // the text is closed up to here
  #part: Part | null = null; // the open block, as far as it is closed
  #tableHead = "";
  #fence: Fence | null = null;
  #links: Links = Object.create(null) as Links;
  #ended = false;

  /** The text is `text` now.  It goes on from what it was the last time; `live`: it will go on. */
  show(source: string, live: boolean): void {
    const text = withoutReturns(source, live);
    if (this.#ended || text.length < this.#upto) this.#reset();
    while (this.#advance(text, live));
    this.#ended = !live;
  }

  #reset(): void {
    this.closed = [];
    this.opened = [];
    this.#part = this.#fence = null;
    this.#upto = 0;
    this.#links = Object.create(null) as Links;
    this.#ended = false;
  }

  /** Read what is open.  True: something was closed that says how to read on. */
  #advance(text: string, live: boolean): boolean {
    if (this.#fence !== null) return this.#readCode(this.#fence, text, live);
    const rest = text.slice(this.#upto);
    const head = this.#part?.kind === "table" ? this.#tableHead : "";
    const found = this.#found(head + (live ? mended(rest) : rest), this.#upto - head.length);
    this.opened = [];
    const last = found.at(-1);
    if (last === undefined) return false;
    // A line that has just begun may yet belong to what stands before it.
    const whole = !live || text.indexOf("\n", last.from) !== -1;
    if (!whole && found.length > 1) {
      this.opened = found.map(({ block }) => block);
      return false;
    }
    const closed = live ? found.slice(0, -1) : found;
    if (closed.length > 0) this.#part = null;
    this.closed.push(...closed.map(({ block }) => block));
    if (!live) {
      this.#upto = text.length;
      return false;
    }
    if (closed.length > 0) this.#upto = last.from;
    return this.#openLast(last, text);
  }

  /** The blocks of a source that begins at `at`: the first one goes on with what is closed of it. */
  #found(source: string, at: number): Found[] {
    const found: Found[] = [];
    let part = this.#part;
    for (const token of this.#lex(source)) {
      const from = at;
      at += token.raw.length;
      if (token.type === "space") continue;
      if (part !== null && part.kind !== token.type) found.push({ block: part, token, from });
      const block = blockOf(token, from, part?.kind === token.type ? part : null);
      part = null;
      if (block !== null) found.push({ block, token, from });
    }
    if (part !== null) found.push({ block: part, token: textToken(""), from: at });
    return found;
  }

  /** The last block is open. */
  #openLast({ block, token, from }: Found, text: string): boolean {
    const fence = token.type === "code" ? fenceAt(text, from) : null;
    if (fence !== null) {
      this.#fence = fence;
      this.#upto = fence.block.upto;
      return true;
    }
    this.opened = [block];
    if (token.raw.length <= SPLIT_CHARACTERS) return false;
    if (block.kind === "list") this.#splitList(block, token as Tokens.List, text);
    else if (block.kind === "table") this.#splitTable(block, token as Tokens.Table, text);
    else if (block.kind === "paragraph") this.#splitParagraph(block, text);
    return false;
  }

  // ------------------------------------------------------------------ long open blocks

  #splitList(block: ListBlock, { items }: Tokens.List, text: string): void {
    const before = items.slice(0, -1).map(({ raw }) => raw).join("");
    const next = this.#upto + before.length;
    if (before === "" || !text.startsWith(before, this.#upto) || text.indexOf("\n", next) === -1) return;
    this.#keepPart({ ...block, units: block.units.slice(0, -1) }, next);
  }

  #splitTable(block: TableBlock, { rows }: Tokens.Table, text: string): void {
    const started = this.#part !== null;
    const head = started ? this.#upto : endOfLine(text, endOfLine(text, this.#upto));
    let next = head;
    for (let row = 0; row < rows.length - 1; row++) next = endOfLine(text, next);
    if (rows.length < 2 || next === text.length) return;
    if (!started) this.#tableHead = text.slice(this.#upto, head);
    this.#keepPart({ ...block, units: block.units.slice(0, -1) }, next);
  }

  #splitParagraph(block: ParagraphBlock, text: string): void {
    const rest = text.slice(this.#upto);
    if (rest.length < PIECE_CHARACTERS) return;
    const forced = rest.length > PIECE_MOST;
    for (let at = rest.length - PIECE_CHARACTERS / 3; at > PIECE_CHARACTERS / 3; at -= 200) {
      const cut = rest.lastIndexOf(" ", at) + 1;
      if (cut < 2 || !/^(?:[\p{L}("'“]|\d+(?![\d.)]))/u.test(rest.slice(cut, cut + 40))) continue;
      const piece = rest.slice(0, cut);
      const tokens = this.#inline(piece);
      if (!forced && tokens.some(({ type, raw }) => type === "text" && /[*_~`[<]/.test(raw))) continue;
      this.#keepPart({ ...block, units: unitsOf(block.units.slice(0, -1), [tokens]) }, this.#upto + cut);
      return;
    }
  }

  #keepPart(part: Part, upto: number): void {
    this.#part = part;
    this.#upto = upto;
  }

  // ------------------------------------------------------------------ code

  /** Read whole lines of code.  True: the code has ended. */
  #readCode(fence: Fence, text: string, live: boolean): boolean {
    const { block } = fence;
    for (;;) {
      const end = text.indexOf("\n", this.#upto);
      const line = text.slice(this.#upto, end === -1 ? text.length : end);
      const closes = (end !== -1 || !live) && isClosing(fence, line);
      if (closes || (end === -1 && !live)) {
        if (!closes) fence.pending += unindented(line, fence.indent);
        this.#upto = end === -1 ? text.length : end + 1;
        this.#closeCode(fence, text, closes);
        return true;
      }
      if (end === -1) {
        const partial = mayClose(fence, line) ? "" : unindented(line, fence.indent);
        const open = fence.pending + partial;
        const units = open === "" ? block.units : unitsOf(block.units, [open]);
        this.opened = [{ ...block, units, upto: text.length }];
        return false;
      }
      keepLine(fence, line);
      this.#upto = end + 1;
    }
  }

  #closeCode(fence: Fence, text: string, closed: boolean): void {
    const raw = text.slice(fence.block.from, this.#upto);
    this.#fence = null;
    this.opened = [];
    this.closed.push({ ...fence.block, units: ended(fence), closed, raw, upto: this.#upto });
  }

  // ------------------------------------------------------------------ the end

  /** The text has ended as `text`: cut it into blocks once more, and make those anew that differ.  Whether any did. */
  check(source: string): boolean {
    if (source.length > CHECKED_MOST) return false;
    const text = withoutReturns(source, false);
    if (TOO_DEEP.test(text)) return false;
    const lexer = newLexer({});
    const known = new Map(this.closed.map((block) => [block.from, block]));
    let tokens: Token[];
    try {
      tokens = lexer.blockTokens(text, lexer.tokens);
    } catch {
      return false; // too deep for the parser: it stays as it was read
    }
    this.#links = lexer.tokens.links;
    const named = Object.keys(this.#links).length > 0;
    let at = 0;
    let differs = false;
    const blocks: Block[] = [];
    for (const token of tokens) {
      const from = at;
      at += token.raw.length;
      if (token.type === "space" || token.type === "def") continue;
      const block = known.get(from);
      if (block !== undefined && isSame(block, token, text) && !(named && hasNames(block, token))) blocks.push(block);
      else {
        differs = true;
        blocks.push(...this.#anew(token, from));
      }
    }
    this.closed = blocks;
    return differs;
  }

  #anew(token: Token, from: number): Block[] {
    const [read] = this.#lex(token.raw);
    const block = read === undefined ? null : blockOf(read, from, null);
    return block === null ? [] : [{ ...block, key: `${from}again` }];
  }

  // ------------------------------------------------------------------ marked

  #lex(source: string): Token[] {
    if (TOO_DEEP.test(source)) return [paragraphOf(source)];
    const lexer = newLexer(this.#links);
    try {
      const tokens = lexer.blockTokens(source, lexer.tokens);
      for (const { src, tokens: into } of lexer.inlineQueue) lexer.inlineTokens(src, into);
      this.#links = lexer.tokens.links;
      return tokens;
    } catch {
      // Nested deeper than the parser can follow: it is shown as it was said.
      return [paragraphOf(source)];
    }
  }

  #inline(source: string): Token[] {
    const lexer = newLexer(this.#links);
    try {
      return lexer.inlineTokens(source, []);
    } catch {
      return [textToken(source)];
    }
  }
}

/** The block of a token, behind what was closed of it before; null: it shows nothing. */
function blockOf(token: Token, from: number, part: Part | null): Block | null {
  const start = part?.from ?? from;
  const base = { key: String(start), from: start, upto: from + token.raw.length, raw: token.raw };
  if (token.type === "list") {
    const { ordered, start, loose, items } = token as Tokens.List;
    const head = { ordered, start: start === "" ? 1 : start, loose };
    if (part?.kind !== "list") return { ...base, kind: "list", ...head, units: unitsOf([], items) };
    const isLoose = loose || part.loose || part.units.some(({ value }) => /\n[ \t]*\n$/.test(value.raw));
    return { ...part, ...base, loose: isLoose, units: unitsOf(part.units, items) };
  }
  if (token.type === "table") {
    const { header, rows } = token as Tokens.Table;
    return { ...base, kind: "table", header, units: unitsOf(part?.kind === "table" ? part.units : [], rows) };
  }
  if (token.type === "paragraph") {
    const before = part?.kind === "paragraph" ? part.units : [];
    return { ...base, kind: "paragraph", units: unitsOf(before, [token.tokens ?? []]) };
  }
  if (token.type === "code") return { ...base, ...codeOf(token as Tokens.Code) };
  return token.type === "def" ? null : { ...base, kind: "other", token };
}

function paragraphOf(source: string): Token {
  return { type: "paragraph", raw: source, text: source, tokens: [textToken(source)] };
}

function textToken(source: string): Token {
  return { type: "text", raw: source, text: source };
}

/** Markdown as everybody writes it (GFM), but that `[^1]: …`, a footnote, is no address: it stays text. */
class Reader extends Tokenizer {
  override def(source: string): Tokens.Def | undefined {
    return /^ {0,3}\[\^/.test(source) ? undefined : super.def(source);
  }
}

function newLexer(links: Links): Lexer {
  const lexer = new Lexer({ ...getDefaults(), gfm: true, tokenizer: new Reader() });
  Object.assign(lexer.tokens.links, links);
  return lexer;
}

/** Lines as the parser knows them, which end with a line feed.  A carriage return at the end may become half of one. */
function withoutReturns(source: string, live: boolean): string {
  if (!source.includes("\r")) return source;
  const known = live && source.endsWith("\r") ? source.slice(0, -1) : source;
  return known.replace(/\r\n?/g, "\n");
}

function endOfLine(text: string, from: number): number {
  const end = text.indexOf("\n", from);
  return end === -1 ? text.length : end + 1;
}

// ------------------------------------------------------------------ comparing

const KINDS: Record<string, Block["kind"]> = { list: "list", table: "table", paragraph: "paragraph", code: "code" };

/** Whether a block is what the whole text has there. */
function isSame(block: Block, token: Token, text: string): boolean {
  if (block.kind !== (KINDS[token.type] ?? "other")) return false;
  if (block.kind === "other" && block.token.type !== token.type) return false;
  const end = block.from + token.raw.trimEnd().length;
  if (text.slice(block.from, block.upto).trimEnd().length + block.from !== end) return false;
  return block.kind !== "list" || block.loose === (token as Tokens.List).loose;
}

/** Whether a block may name an address that is defined elsewhere. */
function hasNames(block: Block, token: Token): boolean {
  return block.kind !== "code" && token.raw.includes("[");
}
