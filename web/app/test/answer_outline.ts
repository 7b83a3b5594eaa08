// What a drawing comes to, as a line of text: elements with their attributes, and their words.  Nothing is mounted, so
// what holds state of its own is taken for what it was given.

import { Fragment } from "preact";
import type { ComponentChildren, VNode } from "preact";

import { Growing } from "../src/answer/blocks.ts";
import { Code } from "../src/answer/code.tsx";
import { Leaf } from "../src/answer/leaf.tsx";
import { Once } from "../src/answer/once.tsx";
import { drawBlock } from "../src/answer/render.tsx";
import { SeamMark, pieces } from "../src/answer/seams.tsx";
import type { Seam } from "../src/answer/seams.tsx";

const UNSEEN = new Set(["children", "key", "ref"]);

export function outline(child: ComponentChildren): string {
  if (child === null || child === undefined || typeof child === "boolean") return "";
  if (Array.isArray(child)) return child.map(outline).join("");
  if (typeof child !== "object") return String(child).replaceAll("<", "‹").replaceAll(">", "›");
  const { type, props } = child as VNode<Record<string, unknown> & { children?: ComponentChildren }>;
  if (type === Fragment) return outline(props.children);
  if (type === (Once as unknown)) return outline((props["draw"] as () => VNode)());
  if (type === (Leaf as unknown)) return outline(props["text"] as string);
  if (type === (SeamMark as unknown)) return "⤳";
  if (type === (Code as unknown)) {
    const found = pieces((props["texts"] as string[]).join(""));
    const marked = found.map((piece) => (typeof piece === "number" ? "⤳" : piece));
    return `<code ${String(props["lang"])}>${outline(marked)}</code>`;
  }
  if (typeof type !== "string") throw new Error(`an unknown component ${type.name}`);
  const set = Object.entries(props).filter(([name, value]) => {
    return !UNSEEN.has(name) && value !== undefined && value !== false;
  });
  const attributes = set.map(([name, value]) => ` ${name}="${String(value)}"`).join("");
  return `<${type}${attributes}>${outline(props.children)}</${type}>`;
}

/** What is shown of `text` at its end, after it came in `pieces`, or at once. */
export function drawn(text: string, pieces: readonly string[] = [], seams: readonly Seam[] = []): string {
  const growing = new Growing();
  let shown = "";
  for (const piece of pieces) growing.show((shown += piece), true);
  growing.show(text, false);
  growing.check(text);
  return outlineOf(growing, seams);
}

/** What is shown of a text that is still coming. */
export function drawnSoFar(text: string): string {
  const growing = new Growing();
  growing.show(text, true);
  return outlineOf(growing, []);
}

export function outlineOf({ closed, opened }: Growing, seams: readonly Seam[]): string {
  return outline([...closed, ...opened].map((block) => drawBlock(block, { seams, grows: false })));
}

export interface Drawn {
  name: string;
  attributes: Record<string, unknown>;
}

/** All elements that are shown. */
export function elementsOf({ closed, opened }: Growing): Drawn[] {
  const drawn: Drawn[] = [];
  const visit = (child: ComponentChildren): void => {
    if (Array.isArray(child)) for (const one of child) visit(one as ComponentChildren);
    else if (child !== null && typeof child === "object") {
      const { type, props } = child as VNode<Record<string, unknown> & { children?: ComponentChildren }>;
      if (type === (Once as unknown)) {
        visit((props["draw"] as () => VNode)());
        return;
      }
      const { children, ...attributes } = props;
      if (typeof type === "string") {
        const set = Object.entries(attributes).filter(([name, value]) => !UNSEEN.has(name) && value !== undefined);
        drawn.push({ name: type, attributes: Object.fromEntries(set) });
      }
      visit(children);
    }
  };
  visit([...closed, ...opened].map((block) => drawBlock(block, { seams: [], grows: false })));
  return drawn;
}
