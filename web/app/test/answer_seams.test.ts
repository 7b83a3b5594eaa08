// Seams in a text that is Markdown: the mark is seen, and what the text means stays what it was.

import { describe, expect, test } from "vitest";

import { Growing } from "../src/answer/blocks.ts";
import { markSeams, pieces, seamLabel, unmarked } from "../src/answer/seams.tsx";
import type { Seam } from "../src/answer/seams.tsx";
import { outlineOf } from "./answer_outline.ts";

function seam(at: number, more: Partial<Seam> = {}): Seam {
  const how = { reason: "node_lost", continuation: "exact", check: "verified" } as const;
  const first = { ...how, epoch: 2, attempt: 2, node: "n" };
  return { at, ...first, ...more };
}

function drawn(text: string, seams: readonly Seam[]): string {
  const growing = new Growing();
  growing.show(markSeams(text, seams, false).text, false);
  return outlineOf(growing, seams);
}

const TEXTS = [
  "One **bold** and *slanted* words, `code` too. And more of them, here.",
  "# Head\n\nWords of a paragraph.\n\n- one item\n- another item\n\n```js\nconst a = 1;\nfoo(a);\n```\n\nEnd.",
  "| a | b |\n|---|---|\n| one | two |\n| three | four |\n\nBehind it.",
  "See [words](https://example.org/a_b) and https://example.org/x?y=1 and <kbd>A</kbd> _slanted_ words.",
  "1. one\n2. two\n\n> quoted words\n\n---\n\nHead\n====\n\n[a]: https://example.org/ 'x'\n\nsee [a] now",
  "1 2 3 4 5 6 7 8 9 10",
];

describe("wherever a seam lies", () => {
  test.each(TEXTS)("%j is drawn as without it, but for the mark", (text) => {
    const plain = drawn(text, []);
    for (let at = 1; at < text.length; at++) {
      const marked = drawn(text, [seam(at)]);
      expect(marked.replaceAll("⤳", ""), `at ${at}`).toBe(plain);
      expect(marked.split("⤳").length - 1 + markSeams(text, [seam(at)], false).behind.length, `at ${at}`).toBe(1);
    }
  });

  test.each(TEXTS)("what is marked of %j only grows while it comes", (text) => {
    for (let at = 1; at < text.length; at += 3) {
      let before = "";
      for (let length = at; length <= text.length; length++) {
        const { text: marked } = markSeams(text.slice(0, length), [seam(at)], true);
        expect(marked.startsWith(before)).toBe(true);
        before = marked;
      }
    }
  });
});

test("several seams are told apart, and their order is kept", () => {
  const text = "one two three four five six";
  const { text: marked } = markSeams(text, [seam(2), seam(9), seam(9)], false);
  expect(pieces(marked)).toEqual(["one", 0, " two three", 1, 2, " four five six"]);
  expect(unmarked(marked)).toBe(text);
});

test("a seam before all text stands before it", () => {
  expect(markSeams("words", [seam(0, { continuation: "restart" })], false).before).toEqual([0]);
});

test("what looks like a mark in a text is none", () => {
  expect(pieces(markSeams("a \ufdd0b c", [seam(6)], false).text)).toEqual(["a \ufffdb c", 0].slice(0, 2));
});

test("a mark says what has happened", () => {
  expect(seamLabel(seam(1))).toBe("carried on after a server loss");
  const doubtful = seam(1, { reason: "drain", check: "unverified" });
  expect(seamLabel(doubtful)).toBe("carried on when a server was stopped (join not verified)");
  expect(seamLabel(seam(1, { continuation: "restart" }))).toBe("started again after a server loss");
  const last = seam(1, { continuation: null, reason: "provider_lost" });
  expect(seamLabel(last)).toBe("broken off here after the provider broke off");
});
