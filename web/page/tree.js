// Which of a session's messages are looked at: one path through their tree.
//
// Messages hang together by `parent`; an answer that is still coming hangs below the message that it answers.  Where a
// node has several children the viewer's choice counts, and without one the child whose branch has the newest message:
// so who chooses nothing always sees what was said last.  An answer that is still coming is as new as its beginning.
// Choices are {key of the parent: key of the child}.
//
// A node's key is its message's id; that of an answer is its stream's id, which it has before it is a message.  Nodes
// whose parent was not loaded yet are a group of their own, named after that parent.

import { busyTurns } from "./session.js";

export const ROOT = "";

/** The nodes of a session, {key, above, message or null, turn or null, newest}, and who follows whom. */
export function treeOf(session) {
  const places = new Map(session.messages.map((message, place) => [message.id, place]));
  const above = (parent) => {
    if (parent === null) return ROOT;
    return places.has(parent) ? keyOf(session.messages[places.get(parent)]) : `?${parent}`;
  };
  const turns = new Map(busyTurns(session).map((turn) => [turn.stream, turn]));
  const nodes = session.messages.map((message, place) => {
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

function keyOf(message) {
  return message.role === "assistant" && message.stream ? message.stream : message.id;
}

/** Children by the key of their parent.  `newest` becomes the place of the newest node in a node's branch. */
function belowOf(nodes) {
  const known = new Map(nodes.map((node) => [node.key, node]));
  const below = new Map();
  // A child stands behind its parent.
  for (const node of nodes.toReversed()) {
    const parent = known.get(node.above);
    if (parent !== undefined) parent.newest = Math.max(parent.newest, node.newest);
  }
  for (const node of nodes) {
    if (!below.has(node.above)) below.set(node.above, []);
    below.get(node.above).push(node);
  }
  return below;
}

/** The path that is looked at: [{node, siblings, place}], the first message first. */
export function pathOf({ nodes, below }, choices) {
  const path = [];
  const known = new Set(nodes.map(({ key }) => key));
  const tops = [...below].filter(([above]) => !known.has(above)).map(([, siblings]) => newestOf(siblings));
  let above = tops.length ? newestOf(tops).above : ROOT;
  while (below.has(above)) {
    const siblings = below.get(above);
    const chosen = Object.hasOwn(choices, above) ? siblings.find(({ key }) => key === choices[above]) : undefined;
    const node = chosen ?? newestOf(siblings);
    path.push({ node, siblings, place: siblings.indexOf(node) });
    above = node.key;
  }
  return path;
}

/** Whether a path is the newest one: what is sent without a `parent` goes to its end. */
export function isNewest(path) {
  return path.every(({ node, siblings }) => node === newestOf(siblings));
}

function newestOf(nodes) {
  return nodes.reduce((one, other) => (other.newest >= one.newest ? other : one));
}
