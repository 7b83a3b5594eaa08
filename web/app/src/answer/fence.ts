// Code between fences, read a line at a time: a long block of it costs no more a line than a short one.

import type { Tokens } from "marked";

import { unit } from "./block.ts";
import type { CodeBlock, Unit } from "./block.ts";

const CODE_LINES = 40; // a unit of code
const CODE_CHARACTERS = 2_000;

/** A fence that is open, and what has been read behind it. */
export interface Fence {
  mark: string;
  indent: number;
  block: CodeBlock;
  pending: string; // whole lines that are no unit yet
  lines: number;
}

/** A whole block of code, in units as it would have come. */
export function codeOf({ lang, text }: Tokens.Code): Pick<CodeBlock, "kind" | "lang" | "units" | "closed"> {
  const units: Unit<string>[] = [];
  const lines = text.replace(/\n$/, "").split("\n");
  for (let from = 0; from < lines.length; from += CODE_LINES) {
    const end = from + CODE_LINES < lines.length ? "\n" : "";
    units.push(unit(units.length, lines.slice(from, from + CODE_LINES).join("\n") + end));
  }
  return { kind: "code", lang: lang ?? "", units, closed: true };
}

export function fenceAt(text: string, from: number): Fence | null {
  const line = text.slice(from, text.indexOf("\n", from));
  const found = /^( {0,3})(`{3,}|~{3,})[ \t]*(.*)$/.exec(line);
  if (found === null) return null;
  const [, indent = "", mark = "", lang = ""] = found;
  const place = { key: String(from), from, upto: from + line.length + 1, raw: "" };
  const block: CodeBlock = { ...place, kind: "code", lang: lang.trim(), units: [], closed: false };
  return { mark, indent: indent.length, block, pending: "", lines: 0 };
}

export function isClosing({ mark }: Fence, line: string): boolean {
  const found = /^ {0,3}(`{3,}|~{3,})[ \t]*$/.exec(line)?.[1];
  return found !== undefined && found[0] === mark[0] && found.length >= mark.length;
}

/** Whether a line that has just begun may become the end. */
export function mayClose({ mark }: Fence, line: string): boolean {
  const found = /^ {0,3}([`~]*)[ \t]*$/.exec(line)?.[1];
  return found !== undefined && found !== "" && found[0] === mark[0];
}

export function unindented(line: string, most: number): string {
  if (most === 0) return line;
  let at = 0;
  while (at < most && line[at] === " ") at++;
  return line.slice(at);
}

/** Keep a whole line. */
export function keepLine(fence: Fence, line: string): void {
  fence.pending += `${unindented(line, fence.indent)}\n`;
  fence.lines += 1;
  if (fence.lines >= CODE_LINES || fence.pending.length >= CODE_CHARACTERS) keepUnit(fence);
}

function keepUnit(fence: Fence): void {
  fence.block.units.push(unit(fence.block.units.length, fence.pending));
  fence.pending = "";
  fence.lines = 0;
}

/** The code as it is when its end has come. */
export function ended(fence: Fence): Unit<string>[] {
  if (fence.pending !== "") keepUnit(fence);
  const last = fence.block.units.at(-1);
  if (last === undefined) return [];
  return [...fence.block.units.slice(0, -1), { ...last, value: last.value.replace(/\n$/, "") }];
}
