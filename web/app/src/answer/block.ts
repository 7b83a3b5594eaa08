// The blocks that a text of Markdown consists of, and their parts.

import type { Token, Tokens } from "marked";

/** A part of a block that stays as it is. */
export interface Unit<Value> {
  key: number;
  value: Value;
}

interface Place {
  key: string;
  from: number; // of the text, in characters
  upto: number;
  raw: string;
}

export interface ListBlock extends Place {
  kind: "list";
  ordered: boolean;
  start: number;
  loose: boolean;
  units: Unit<Tokens.ListItem>[];
}

export interface TableBlock extends Place {
  kind: "table";
  header: Tokens.TableCell[];
  units: Unit<Tokens.TableCell[]>[];
}

export interface ParagraphBlock extends Place {
  kind: "paragraph";
  units: Unit<Token[]>[];
}

export interface CodeBlock extends Place {
  kind: "code";
  lang: string;
  units: Unit<string>[];
  closed: boolean;
}

export interface OtherBlock extends Place {
  kind: "other";
  token: Token;
}

export type Block = ListBlock | TableBlock | ParagraphBlock | CodeBlock | OtherBlock;

export function unit<Value>(key: number, value: Value): Unit<Value> {
  return { key, value };
}

export function unitsOf<Value>(before: readonly Unit<Value>[], values: readonly Value[]): Unit<Value>[] {
  return [...before, ...values.map((value, place) => unit(before.length + place, value))];
}
