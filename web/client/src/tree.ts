// Which of a session's messages are looked at: one path through their tree.
//
// Messages hang together by `parent`; an answer that is still coming hangs below the message that it answers.  Where a
// node has several children the viewer's choice counts, and without one the child whose branch has the newest message:
// so who chooses nothing always sees what was said last.  An answer that is still coming is as new as its beginning.
// Choices are {key of the parent: key of the child}.
//
// A node's key is its message's id; that of an answer is its stream's id, which it has before it is a message.  Nodes
// whose parent was not loaded yet are a group of their own, named after that parent.

import type { SessionMessage } from "./frames.ts";
import { busyTurns } from "./session.ts";
import type { SessionState, TurnState } from "./session.ts";

/** What the first messages hang below. */
export const ROOT = "";

export interface TreeNode {
  key: string;
  /** The key of what it hangs below. */
  above: string;
  /** Null while it is still coming. */
  message: SessionMessage | null;
  /** The turn that is under way in it. */
  turn: TurnState | null;
  /** The place of the newest message in its branch. */
  newest: number;
}

export interface Tree {
  nodes: TreeNode[];
  /** Children by the key of their parent. */
  below: Map<string, TreeNode[]>;
}

/** A node of the path that is looked at, which of its siblings it is, and all of them. */
export interface PathItem {
  node: TreeNode;
  siblings: TreeNode[];
  place: number;
}

export type Choices = Record<string, string>;

/** The nodes of a session, and who follows whom. */
export function treeOf(session: SessionState): Tree {
  const places = new Map(session.messages.map((message, place) => [message.id, place]));
  const keys = new Map(session.messages.map((message) => [message.id, keyOf(message)]));
  const above = (parent: string | null): string => (parent === null ? ROOT : (keys.get(parent) ?? `?${parent}`));
  const turns = new Map(busyTurns(session).map((turn) => [turn.stream, turn]));
  const nodes = session.messages.map((message, place): TreeNode => {
    const key = keyOf(message);
    return { key, above: above(message.parent), message, turn: turns.get(key) ?? null, newest: place };
  });
  const answered = new Set(nodes.map(({ key }) => key));
  for (const turn of turns.values()) {
    if (answered.has(turn.stream)) continue;
    const newest = (places.get(turn.behind ?? turn.message) ?? -1) + 0.5;
    nodes.push({ key: turn.stream, above: above(turn.message), message: null, turn, newest });
  }
  return { nodes, below: belowOf(nodes) };
}

function keyOf(message: SessionMessage): string {
  return message.role === "assistant" && message.stream ? message.stream : message.id;
}

/** Children by the key of their parent.  `newest` becomes the place of the newest node in a node's branch. */
function belowOf(nodes: TreeNode[]): Map<string, TreeNode[]> {
  const known = new Map(nodes.map((node) => [node.key, node]));
  const below = new Map<string, TreeNode[]>();
  // A child stands behind its parent.
  for (const node of nodes.toReversed()) {
    const parent = known.get(node.above);
    if (parent !== undefined) parent.newest = Math.max(parent.newest, node.newest);
  }
  for (const node of nodes) {
    const siblings = below.get(node.above);
    if (siblings === undefined) below.set(node.above, [node]);
    else siblings.push(node);
  }
  return below;
}

/** The path that is looked at, the first message first. */
export function pathOf({ nodes, below }: Tree, choices: Choices): PathItem[] {
  const path: PathItem[] = [];
  const known = new Set(nodes.map(({ key }) => key));
  const tops = [...below].filter(([above]) => !known.has(above)).map(([, siblings]) => newestOf(siblings));
  let siblings = tops.length > 0 ? below.get(newestOf(tops).above) : undefined;
  while (siblings !== undefined) {
    const node = chosenOf(siblings, choices) ?? newestOf(siblings);
    path.push({ node, siblings, place: siblings.indexOf(node) });
    siblings = below.get(node.key);
  }
  return path;
}

/** Whether a path is the newest one: what is sent without a `parent` goes to its end. */
export function isNewest(path: PathItem[]): boolean {
  return path.every(({ node, siblings }) => node === newestOf(siblings));
}

function chosenOf(siblings: TreeNode[], choices: Choices): TreeNode | undefined {
  const above = siblings[0]?.above ?? ROOT;
  return Object.hasOwn(choices, above) ? siblings.find(({ key }) => key === choices[above]) : undefined;
}

function newestOf(nodes: TreeNode[]): TreeNode {
  return nodes.reduce((one, other) => (other.newest >= one.newest ? other : one));
}
