// Which messages are looked at: one path through a tree, by the viewer's choices.

import fc from "fast-check";
import { describe, expect, it } from "vitest";

import type { SessionMessage } from "../src/frames.ts";
import { newSession } from "../src/session.ts";
import type { SessionState, TurnState } from "../src/session.ts";
import { isNewest, pathOf, treeOf } from "../src/tree.ts";
import type { Choices, PathItem, Tree } from "../src/tree.ts";
import { Chance } from "./chance.ts";
import { folded, Play } from "./play.ts";

function said(id: string, parent: string | null, stream?: string): SessionMessage {
  const message = { id, parent, author: "ann", content: id, created: 1 };
  return stream === undefined ? { ...message, role: "user" } : { ...message, role: "assistant", stream };
}

/** Two first messages; to the second there are two answers. */
function branched(): SessionState {
  const first = [said("m1", null), said("a1", "m1", "r1"), said("m2", "a1"), said("a2", "m2", "r2")];
  const second = [said("m1b", null), said("a1b", "m1b", "r3"), said("a1c", "m1b", "r4")];
  return { ...newSession("s_1", "ann"), messages: [...first, ...second] };
}

function running(message: string, behind: string): TurnState {
  return { turn: "t", stream: "r9", model: "a/b", user: "ann", message, behind, state: "running" };
}

function keys(path: PathItem[]): string[] {
  return path.map(({ node, siblings, place }) => `${node.key} ${place + 1}/${siblings.length}`);
}

function looked(session: SessionState, choices: Choices = {}): string[] {
  return keys(pathOf(treeOf(session), choices));
}

describe("the path that is looked at", () => {
  it("is the newest branch without a choice", () => {
    const session = branched();
    expect(looked(session)).toEqual(["m1b 2/2", "r4 2/2"]);
    expect(isNewest(pathOf(treeOf(session), {}))).toBe(true);
    session.messages.push(said("m3", "a2"));
    expect(looked(session)).toEqual(["m1 1/2", "r1 1/1", "m2 1/1", "r2 1/1", "m3 1/1"]);
  });

  it("follows a choice below its parent, and no unknown one", () => {
    const session = branched();
    expect(looked(session, { "": "m1b", m1b: "r3" })).toEqual(["m1b 2/2", "r3 1/2"]);
    expect(isNewest(pathOf(treeOf(session), { m1b: "r3" }))).toBe(false);
    expect(looked(session, { "": "m7", m1b: "r9" })).toEqual(["m1b 2/2", "r4 2/2"]);
  });

  it("has an answer that is still coming as a branch beside the others", () => {
    const session = { ...branched(), turns: [running("m1b", "a1c")] };
    expect(looked(session)).toEqual(["m1b 2/2", "r9 3/3"]);
    expect(looked(session, { m1b: "r4" })).toEqual(["m1b 2/2", "r4 2/3"]);
  });

  it("has an answer that is still coming for as new as its beginning", () => {
    const session = { ...branched(), turns: [running("m2", "m2")] };
    expect(looked(session)).toEqual(["m1b 2/2", "r4 2/2"]);
    expect(looked(session, { "": "m1" })).toEqual(["m1 1/2", "r1 1/1", "m2 1/1", "r2 1/2"]);
    const begunLast = { ...session, turns: [running("m2", "a1c")] };
    expect(looked(begunLast)).toEqual(["m1 1/2", "r1 1/1", "m2 1/1", "r9 2/2"]);
  });

  it("has the later one of two answers that are coming at the same time", () => {
    const later = { ...running("m1b", "a1c"), turn: "u", stream: "r10" };
    const session = { ...branched(), turns: [running("m1b", "a1c"), later] };
    expect(looked(session)).toEqual(["m1b 2/2", "r10 4/4"]);
  });

  it("begins where its beginning has not been loaded", () => {
    const session = branched();
    session.messages.shift();
    expect(looked(session)).toEqual(["m1b 1/1", "r4 2/2"]);
    session.messages = [said("a1", "m0", "r1"), said("m2", "a1")];
    expect(looked(session)).toEqual(["r1 1/1", "m2 1/1"]);
  });

  it("is empty in an empty session", () => {
    expect(looked(newSession("s_1"))).toEqual([]);
    expect(isNewest([])).toBe(true);
  });
});

describe("any session's tree", () => {
  const course = fc.record({ steps: fc.nat(40), seed: fc.noShrink(fc.nat()) });

  function holds(claim: (session: SessionState, tree: Tree, chance: Chance) => void, numRuns = 1000): void {
    const property = fc.property(course, ({ steps, seed }) => {
      const chance = new Chance(seed);
      const session = folded(new Play(chance, steps).entries);
      claim(session, treeOf(session), chance);
    });
    fc.assert(property, { numRuns });
  }

  it("has every message and every answer that is coming, once", () => {
    holds((session, { nodes, below }) => {
      const unique = new Set(nodes.map(({ key }) => key));
      expect(unique.size).toBe(nodes.length);
      expect([...below.values()].flat().map(({ key }) => key).sort()).toEqual([...unique].sort());
      expect(nodes.filter(({ message }) => message !== null).map(({ message }) => message)).toEqual(session.messages);
      const coming = nodes.filter(({ message }) => message === null).map(({ turn }) => turn?.state);
      expect(coming.every((state) => state === "running")).toBe(true);
    });
  });

  it("ends, without choices, with what was said or begun last", () => {
    holds((_, tree) => {
      const path = pathOf(tree, {});
      expect(isNewest(path)).toBe(true);
      const newest = Math.max(-1, ...tree.nodes.map((node) => node.newest));
      expect(path.at(-1)?.node.newest ?? -1).toBe(newest);
    });
  });

  it("can be looked at everywhere: choices lead to any node", () => {
    holds((_, tree, chance) => {
      if (tree.nodes.length === 0) return;
      const wanted = chance.one(tree.nodes);
      const known = new Map(tree.nodes.map((node) => [node.key, node]));
      const choices: Choices = {};
      for (let node = known.get(wanted.key); node !== undefined; node = known.get(node.above)) {
        choices[node.above] = node.key;
      }
      expect(pathOf(tree, choices).map(({ node }) => node.key)).toContain(wanted.key);
    });
  });

  it("is looked at along its edges, whatever was chosen", () => {
    holds((_, tree, chance) => {
      const names = tree.nodes.map(({ key }) => key);
      const choices = Object.fromEntries(chance.some(names, 10).map((name) => [name, chance.one(names)]));
      const path = pathOf(tree, choices);
      path.forEach(({ node, siblings, place }, at) => {
        expect(node.above).toBe(path[at - 1]?.node.key ?? "");
        expect(siblings[place]).toBe(node);
      });
    });
  });
});
