// Blocks of Markdown as elements of our own: no HTML is made or read, and no attribute but those named here is ever
// set.
//
// What a model says may hold anything.  HTML in it is text; a few tags that only set off words are taken as such,
// without their attributes.  Links lead to the web or to mail, in another tab, when they are clicked; pictures are
// never loaded.

import { Fragment, h } from "preact";
import type { ComponentChild, ComponentChildren, VNode } from "preact";
import type { Token, Tokens } from "marked";

import { linkAddress, pictureAddress } from "./address.ts";
import type { Block, ListBlock, TableBlock, Unit } from "./block.ts";
import { Code } from "./code.tsx";
import { decoded } from "./entities.ts";
import { Leaf } from "./leaf.tsx";
import { Once } from "./once.tsx";
import { SeamMark, pieces, unmarked } from "./seams.tsx";
import type { Seam } from "./seams.tsx";

const DEEPEST = 40; // levels of nesting; what lies deeper is shown as it was said
const TAG = /^<(\/?)(br|wbr|sub|sup|kbd|mark|u|small)\s*\/?>$/i;
const TAGS = /<\/?(?:br|wbr|sub|sup|kbd|mark|u|small)\s*\/?>/gi;
const VOID = new Set(["br", "wbr"]);

export interface Drawing {
  seams: readonly Seam[];
  /** Whether text may still grow: then what is selected in it has to stay selected. */
  grows: boolean;
}

/** A block.  What is closed of it is drawn once. */
export function drawBlock(block: Block, to: Drawing): VNode {
  switch (block.kind) {
    case "list":
      return drawList(block, to);
    case "table":
      return drawTable(block, to);
    case "paragraph": {
      const words = drawUnits(block.units, ({ key, value }) => <Fragment key={key}>{inline(value, to)}</Fragment>);
      return <p key={block.key}>{words}</p>;
    }
    case "code": {
      const texts = block.units.map(({ value }) => value);
      return <Code key={block.key} lang={unmarked(block.lang)} texts={texts} closed={block.closed} seams={to.seams} />;
    }
    case "other":
      return <Fragment key={block.key}>{drawToken(block.token, to, 0)}</Fragment>;
  }
}

/** Units that are closed are the same objects as before. */
function drawUnits<Value>(units: readonly Unit<Value>[], draw: (unit: Unit<Value>) => VNode): VNode[] {
  return units.map((unit) => <Once key={unit.key} of={unit} draw={() => draw(unit)} />);
}

function drawList({ key, ordered, start, loose, units }: ListBlock, to: Drawing): VNode {
  const items = drawUnits(units, (unit) => drawItem(unit.value, to, 1, unit.key));
  return listElement(ordered, start, loose, items, key);
}

function listElement(ordered: boolean, start: number, loose: boolean, items: VNode[], key?: string): VNode {
  const kind = loose ? "loose" : "tight";
  if (!ordered) return <ul key={key} class={kind}>{items}</ul>;
  return (
    <ol key={key} class={kind} start={start === 1 ? undefined : start}>
      {items}
    </ol>
  );
}

function drawItem(item: Tokens.ListItem, to: Drawing, depth: number, key: number): VNode {
  const [box, words, ...rest] = item.tokens;
  const isTask = box?.type === "checkbox" && words !== undefined;
  return (
    <li key={key} class={item.task ? "task" : undefined}>
      {isTask && <p>{[drawInline(box, to), ...inlineOf(words, to)]}</p>}
      {(isTask ? rest : item.tokens).map((token) => drawToken(token, to, depth))}
    </li>
  );
}

function drawTable({ key, header, units }: TableBlock, to: Drawing): VNode {
  const rows = drawUnits(units, ({ key: row, value }) => (
    <tr key={row}>{value.map((cell) => drawCell(cell, "td", to))}</tr>
  ));
  return (
    <div key={key} class="table" role="group" aria-label="Table" tabIndex={0}>
      <table>
        <thead>
          <tr>{header.map((cell) => drawCell(cell, "th", to))}</tr>
        </thead>
        <tbody>{rows}</tbody>
      </table>
    </div>
  );
}

function drawCell({ tokens, align }: Tokens.TableCell, tag: "td" | "th", to: Drawing): VNode {
  const text = inline(tokens, to);
  const kind = align ?? undefined;
  return tag === "td" ? <td class={kind}>{text}</td> : <th class={kind} scope="col">{text}</th>;
}

// ------------------------------------------------------------------ blocks within blocks

/** What lies in a token. */
function within(token: Token): Token[] {
  return "tokens" in token && Array.isArray(token.tokens) ? (token.tokens as Token[]) : [];
}

function drawToken(token: Token, to: Drawing, depth: number): ComponentChild {
  if (depth > DEEPEST) return <p>{leaf(token.raw, to)}</p>;
  const draw = Object.hasOwn(BLOCKS, token.type) ? BLOCKS[token.type] : undefined;
  return draw === undefined ? <p>{leaf(token.raw, to)}</p> : draw(token, to, depth);
}

const BLOCKS: Record<string, (token: Token, to: Drawing, depth: number) => ComponentChild> = {
  space: () => null,
  hr: () => <hr />,
  heading: (token, to) => h(`h${Math.min(6, (token as Tokens.Heading).depth + 2)}`, {}, inline(within(token), to)),
  paragraph: (token, to) => <p>{inline(within(token), to)}</p>,
  // In a list whose items have no empty lines between them.
  text: (token, to) => <p>{inlineOf(token, to)}</p>,
  blockquote: (token, to, depth) => (
    <blockquote>{within(token).map((inner) => drawToken(inner, to, depth + 1))}</blockquote>
  ),
  list: (token, to, depth) => {
    const { ordered, start, loose, items } = token as Tokens.List;
    const drawn = items.map((item, place) => drawItem(item, to, depth + 1, place));
    return listElement(ordered, start === "" ? 1 : start, loose, drawn);
  },
  table: (token, to) => {
    const { header, rows } = token as Tokens.Table;
    const units = rows.map((value, key) => ({ key, value }));
    return drawTable({ kind: "table", key: "", from: 0, upto: 0, raw: "", header, units }, to);
  },
  code: (token, to) => {
    const { lang, text } = token as Tokens.Code;
    return <Code lang={unmarked(lang ?? "")} texts={[text]} closed={!to.grows} seams={to.seams} />;
  },
  html: (token, to) => <p class="raw">{rawHtml(token.raw.trim(), to)}</p>,
  checkbox: (token, to) => inline([token], to),
};

/** A block of HTML: as it was said, but for tags that are taken as such. */
function rawHtml(source: string, to: Drawing): ComponentChildren {
  const tokens: Token[] = [];
  let from = 0;
  for (const { 0: tag, index } of source.matchAll(TAGS)) {
    if (index > from) tokens.push(escapedText(source.slice(from, index)));
    tokens.push({ type: "html", raw: tag, text: tag });
    from = index + tag.length;
  }
  if (from < source.length) tokens.push(escapedText(source.slice(from)));
  return inline(tokens, to);
}

function escapedText(source: string): Token {
  return { type: "escape", raw: source, text: source };
}

// ------------------------------------------------------------------ within a line

/** The words of a line that stands in a list, whether they hold more than text or not. */
function inlineOf(token: Token, to: Drawing): ComponentChild[] {
  return "tokens" in token ? inline(within(token), to) : [drawInline(token, to)];
}

function inline(tokens: readonly Token[], to: Drawing): ComponentChild[] {
  const drawn: ComponentChild[] = [];
  for (let place = 0; place < tokens.length; place++) {
    const token = tokens[place];
    if (token === undefined) continue;
    const [, slash, name] = token.type === "html" ? (TAG.exec(unmarked(token.raw)) ?? []) : [];
    const tag = name?.toLowerCase();
    if (tag === undefined) drawn.push(drawInline(token, to));
    else if (VOID.has(tag)) drawn.push(h(tag, {}));
    else {
      const end = slash === "" ? endOfTag(tokens, place, tag) : -1;
      if (end === -1) drawn.push(leaf(token.raw, to));
      else {
        drawn.push(h(tag, {}, inline(tokens.slice(place + 1, end), to)));
        place = end;
      }
    }
  }
  return drawn;
}

function endOfTag(tokens: readonly Token[], from: number, tag: string): number {
  return tokens.findIndex(({ type, raw }, place) => {
    return place > from && type === "html" && raw.toLowerCase().replace(/\s/g, "") === `</${tag}>`;
  });
}

function drawInline(token: Token, to: Drawing): ComponentChild {
  const draw = Object.hasOwn(INLINE, token.type) ? INLINE[token.type] : undefined;
  return draw === undefined ? leaf(token.raw, to) : draw(token, to);
}

const INLINE: Record<string, (token: Token, to: Drawing) => ComponentChild> = {
  text: (token, to) => {
    const { tokens, text } = token as Tokens.Text;
    return tokens === undefined ? leaf(decoded(text), to) : inline(tokens, to);
  },
  escape: (token, to) => leaf((token as Tokens.Escape).text, to),
  strong: (token, to) => <strong>{inline(within(token), to)}</strong>,
  em: (token, to) => <em>{inline(within(token), to)}</em>,
  del: (token, to) => <del>{inline(within(token), to)}</del>,
  codespan: (token, to) => <code>{leaf((token as Tokens.Codespan).text, to)}</code>,
  br: () => <br />,
  checkbox: (token) => {
    const { checked } = token as Tokens.Checkbox;
    return <input type="checkbox" checked={checked} disabled aria-label={checked ? "done" : "to do"} />;
  },
  link: (token, to) => {
    const { href, tokens } = token as Tokens.Link;
    return link(linkAddress(href), inline(tokens, to));
  },
  image: (token, to) => {
    const { href, text } = token as Tokens.Image;
    const name = unmarked(decoded(text)) || "picture";
    const picture = pictureAddress(href);
    if (picture !== null) return <img class="picture" src={picture} alt={name} />;
    return link(linkAddress(href), leaf(name, to));
  },
};

/** A link that opens in a tab of its own, which learns nothing of this one; without an address, its words. */
function link(address: string | null, words: ComponentChildren): VNode {
  if (address === null) return <Fragment>{words}</Fragment>;
  return (
    <a href={address} title={address} target="_blank" rel="noopener noreferrer nofollow">
      {words}
    </a>
  );
}

/** Text, with the marks of the seams in it. */
function leaf(text: string, to: Drawing): ComponentChildren {
  const write = (piece: string): ComponentChild => (to.grows ? <Leaf text={piece} /> : piece);
  const found = to.seams.length === 0 ? [text] : pieces(text);
  if (found.length === 1 && found[0] === text) return write(text);
  return found.map((piece) => {
    if (typeof piece === "string") return write(piece);
    const seam = to.seams[piece];
    return seam === undefined ? null : <SeamMark key={`seam ${piece}`} seam={seam} />;
  });
}
