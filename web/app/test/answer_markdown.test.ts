// Markdown as it is drawn: the same whether it came in pieces or at once, and half of it looks like what it will be.

import { describe, expect, test } from "vitest";

import { Growing } from "../src/answer/blocks.ts";
import { drawn, drawnSoFar } from "./answer_outline.ts";

/** Numbers that look random and are the same every time. */
function chance(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) % 4_294_967_296;
    return state / 4_294_967_296;
  };
}

function inPieces(text: string, next: () => number): string[] {
  const pieces: string[] = [];
  for (let from = 0; from < text.length; ) {
    const upto = from + 1 + Math.floor(next() * 12);
    pieces.push(text.slice(from, upto));
    from = upto;
  }
  return pieces;
}

const LINES = [
  "- a", "  - b **c**", "1. x", "2. y", "", "", "# Head", "foo *bar* baz", "> quoted", "```js", "```", "let a = 1;",
  "| a | b |", "|---|---|", "| 1 | **2** |", "    indented", "---", "<div>", "</div>", "[a]: https://example.org/",
  "see [a] and [b][a]", "  more", "===", "* z", "~~~", "- [ ] to do", "- [x] done", "a  ", "`code` and ~~gone~~",
  "[^1]: note", "***", "10) ten", "\\*no\\*", "&amp; &lt;b&gt;",
];

describe("a text that came in pieces is drawn as one that came at once", () => {
  test.each(Array.from({ length: 16 }, (_, seed) => seed))("documents of seed %i", (seed) => {
    const next = chance(seed + 1);
    for (let turn = 0; turn < 30; turn++) {
      const count = 1 + Math.floor(next() * 14);
      const lines = Array.from({ length: count }, () => LINES[Math.floor(next() * LINES.length)] ?? "");
      const text = lines.join("\n") + (next() < 0.5 ? "\n" : "");
      expect(drawn(text, inPieces(text, next)), JSON.stringify(text)).toBe(drawn(text));
    }
  });

  const word = "some **bold** words and `code`, then more of them. ";
  const LONG = {
    "list": "- an item with **bold** words and `code`\n".repeat(300),
    "loose list": "- an item\n\n  and more of it\n\n".repeat(200),
    "numbered list": Array.from({ length: 300 }, (_, place) => `${place + 1}. an item\n`).join(""),
    "nested list": "- top\n" + "  - an item with **bold** words\n".repeat(200),
    "table": "| a | b |\n|:--|--:|\n" + "| one | **two** |\n".repeat(300),
    "code": "```js\n" + "const a = 1; // words\n".repeat(400) + "```\nbehind",
    "code without an end": "~~~\n" + "words\n".repeat(400),
    "paragraph": word.repeat(300),
    "paragraph of lines": `${word}\n`.repeat(200),
    "numbers": Array.from({ length: 4_000 }, (_, place) => place + 1).join(" "),
  };
  test.each(Object.entries(LONG))("a long %s", (_, text) => {
    const next = chance(7);
    const pieces = inPieces(text, next);
    const step = Math.ceil(pieces.length / 300);
    const fewer = Array.from({ length: Math.ceil(pieces.length / step) }, (_, place) =>
      pieces.slice(place * step, (place + 1) * step).join(""),
    );
    expect(drawn(text, fewer)).toBe(drawn(text));
  });
});

test("what is closed is not read again, also in one long block", () => {
  const table = "| a | b |\n|--|--|\n" + "| 1 | 2 |\n".repeat(4_000);
  for (const text of ["word **bold** `code`. ".repeat(2_000), "- an item\n".repeat(4_000), table]) {
    const growing = new Growing();
    growing.show(text.slice(0, 20_000), true);
    for (let length = 20_050; length < 22_000; length += 50) growing.show(text.slice(0, length), true);
    const before = growing.opened.at(-1);
    growing.show(text.slice(0, 22_050), true);
    const after = growing.opened.at(-1);
    const units = (block: typeof before): unknown[] => (block !== undefined && "units" in block ? block.units : []);
    expect(units(after).length).toBeGreaterThan(1);
    expect(units(after)[0]).toBe(units(before)[0]);
  }
});

const TABLE = '<div class="table" role="group" aria-label="Table" tabIndex="0"><table><thead><tr>';

describe("what has begun looks like what it will be", () => {
  test.each([
    ["some **bol", "<p>some <strong>bol</strong></p>"],
    ["some **", "<p>some </p>"],
    ["some **bold*", "<p>some <strong>bold</strong></p>"],
    ["some *it", "<p>some <em>it</em></p>"],
    ["***both", "<p><em><strong>both</strong></em></p>"],
    ["***both**", "<p><em><strong>both</strong></em></p>"],
    ["**bold** and *", "<p><strong>bold</strong> and </p>"],
    ["~~gone~", "<p><del>gone</del></p>"],
    ["see ![al", "<p>see al</p>"],
    ["see ![alt]", "<p>see alt</p>"],
    ["a[0] and [b", "<p>a[0] and [b</p>"],
    ["``a `b", "<p><code>a `b</code></p>"],
    ["2 * 3 = 6", "<p>2 * 3 = 6</p>"],
    ["a_name_b", "<p>a_name_b</p>"],
    ["use `co", "<p>use <code>co</code></p>"],
    ["use `a *b", "<p>use <code>a *b</code></p>"],
    ["~~go", "<p><del>go</del></p>"],
    ["see [words](https://exa", "<p>see words</p>"],
    ["see ![alt](https://exa", "<p>see alt</p>"],
    ["| a | b |", `${TABLE}<th scope="col">a</th><th scope="col">b</th></tr></thead><tbody></tbody></table></div>`],
    ["| a", `${TABLE}<th scope="col">a</th></tr></thead><tbody></tbody></table></div>`],
    ["words\n-", "<p>words</p>"],
    ["words\n``", "<p>words</p>"],
    ["# ", ""],
    ["```py\nprint(1)\n``", "<code py>print(1)\n</code>"],
    ["- a **b", '<ul class="tight"><li><p>a <strong>b</strong></p></li></ul>'],
    ["fish &am", "<p>fish </p>"],
  ])("%j", (text, expected) => {
    expect(drawnSoFar(text).replace(/<(\w+) >/g, "<$1>")).toBe(expected);
  });

  test("a table's head has as many cells as it will have", () => {
    const head = "| a | b | c |\n";
    const cells = (text: string): number => drawnSoFar(text).split("<th ").length - 1;
    const parts = ["", "|", "|-", "|---|", "|---|--", "|---|---|---|", "|---|---|---|\n"];
    for (const part of parts) expect(cells(head + part)).toBe(3);
  });
});

describe("Markdown", () => {
  test("lines may end as they do elsewhere", () => {
    const text = "# A\n\n- a\n- b\n\n```js\nx\n```\n\n| a |\n|---|\n| b |\n\nend";
    for (const end of ["\r\n", "\r"]) {
      const other = text.replaceAll("\n", end);
      expect(drawn(other)).toBe(drawn(text));
      expect(drawn(other, [...other])).toBe(drawn(text));
    }
  });
  test("headings lie below the page's own", () => {
    expect(drawn("# A\n\n## B\n\n###### C")).toBe("<h3>A</h3><h4>B</h4><h6>C</h6>");
  });
  test("an address may be defined at the end", () => {
    const text = "see [here]\n\nmore\n\n[here]: https://example.org/x";
    expect(drawn(text, inPieces(text, chance(1)))).toContain('<a href="https://example.org/x"');
  });
  test("footnotes stay text", () => {
    expect(drawn("words[^1]\n\n[^1]: a note")).toBe("<p>words[^1]</p><p>[^1]: a note</p>");
    expect(drawn("words[^1]\n\n[^1]: note")).toBe("<p>words[^1]</p><p>[^1]: note</p>");
  });
  test("tasks are boxes that nobody can tick", () => {
    const box = '<li class="task"><p><input type="checkbox" checked="true" disabled="true"';
    expect(drawn("- [x] done\n- [ ] open")).toContain(box);
  });
  test("a few tags set off words", () => {
    expect(drawn("H<sub>2</sub>O<br>x<kbd>A</kbd>")).toBe("<p>H<sub>2</sub>O<br></br>x<kbd>A</kbd></p>");
    expect(drawn("<sub>open")).toBe("<p>‹sub›open</p>");
  });
  test("what is nested without end is shown all the same", () => {
    expect(drawn(`${"> ".repeat(5_000)}a`)).toContain("a");
    expect(drawn(`${"- ".repeat(200)}a`)).toContain("a");
  });
  test("a start that is not 1 is kept", () => {
    expect(drawn("3. c\n4. d")).toContain('<ol class="tight" start="3">');
  });
});
