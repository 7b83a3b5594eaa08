// What a model says may be anything: of all that is known to break pages, nothing becomes more than text and plain
// elements.

import { readFileSync } from "node:fs";

import { describe, expect, test } from "vitest";

import { Growing } from "../src/answer/blocks.ts";
import { elementsOf } from "./answer_outline.ts";
import type { Drawn } from "./answer_outline.ts";

interface Sample {
  name: string;
  text: string;
  links?: string[];
  pictures?: number;
}

const SAMPLES = JSON.parse(readFileSync(new URL("../../../tests/web/xss.json", import.meta.url), "utf8")) as Sample[];
const ELEMENTS = new Set(
  (
    "p h3 h4 h5 h6 ul ol li blockquote hr br wbr div table thead tbody tr th td strong em del code sub sup kbd mark " +
    "u small a img input"
  ).split(" "),
);
const ATTRIBUTES: Record<string, RegExp> = {
  class: /^[a-z ]+$/,
  start: /^\d+$/,
  scope: /^col$/,
  role: /^group$/,
  tabIndex: /^0$/,
  "aria-label": /^(?:Table|done|to do)$/,
  href: /^(?:https?:\/\/[^@]+|mailto:[^"<>\s]+)$/,
  title: /^(?:https?:\/\/|mailto:)/,
  target: /^_blank$/,
  rel: /^noopener noreferrer nofollow$/,
  src: /^data:image\/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/=]*$/,
  alt: /^/,
  type: /^checkbox$/,
  checked: /^(?:true|false)$/,
  disabled: /^true$/,
};

function expectHarmless(elements: readonly Drawn[]): void {
  for (const { name, attributes } of elements) {
    expect(ELEMENTS).toContain(name);
    for (const [attribute, value] of Object.entries(attributes)) {
      expect(Object.keys(ATTRIBUTES)).toContain(attribute);
      expect(String(value)).toMatch(ATTRIBUTES[attribute] ?? /^$/);
    }
  }
}

describe.each(SAMPLES)("$name", ({ text, links, pictures = 0 }) => {
  test("is harmless as a whole", () => {
    const growing = new Growing();
    growing.show(text, false);
    growing.check(text);
    const elements = elementsOf(growing);
    expectHarmless(elements);
    const addresses = elements.flatMap(({ name, attributes }) => (name === "a" ? [attributes["href"]] : []));
    if (links !== undefined) expect(addresses).toEqual(links);
    expect(elements.filter(({ name }) => name === "img").length).toBe(pictures);
  });

  test("is harmless at every moment while it comes", () => {
    const growing = new Growing();
    for (let length = 1; length <= text.length; length++) {
      growing.show(text.slice(0, length), true);
      expectHarmless(elementsOf(growing));
    }
  });
});
