// Code in colours: what knows the languages is a file of its own, which is loaded when it is first needed.

import { h } from "preact";
import type { ComponentChild, ComponentChildren } from "preact";

import { LANGUAGES } from "./language_names.ts";

type Nodes = ReturnType<(typeof import("./languages.ts"))["treeOf"]>;

let loading: Promise<typeof import("./languages.ts")> | null = null;
let busy: Promise<unknown> = Promise.resolve(); // one after the other, so that many blocks are not one long task

/** Whether there are colours for a language, by the name that stands behind the fence. */
export function isKnown(name: string): boolean {
  return LANGUAGES.has(name.toLowerCase());
}

/** The code as coloured elements; null: it cannot be done. */
export async function highlighted(code: string, name: string): Promise<ComponentChildren | null> {
  const turn = busy.then(() => colour(code, name));
  busy = turn;
  return turn;
}

async function colour(code: string, name: string): Promise<ComponentChildren | null> {
  try {
    loading ??= import("./languages.ts");
    const { treeOf } = await loading;
    await idle();
    return drawn(treeOf(code, name.toLowerCase()));
  } catch {
    loading = null; // the file could not be loaded: the next block tries again
    return null;
  }
}

function idle(): Promise<void> {
  return new Promise((resolve) => {
    if ("requestIdleCallback" in window) window.requestIdleCallback(() => resolve(), { timeout: 500 });
    else setTimeout(resolve, 20);
  });
}

function drawn(nodes: Nodes): ComponentChild[] {
  return nodes.map((node) => {
    if (node.type === "text") return node.value;
    if (node.type !== "element") return null;
    const names = node.properties["className"];
    return h("span", { class: Array.isArray(names) ? names.join(" ") : "" }, drawn(node.children));
  });
}
