// Text and images of a message.

import type { ContentPart } from "@everstream/client";
import { expect, test } from "vitest";

import { base64Length } from "../src/state/attachments.ts";
import { contentOf, withText } from "../src/state/content.ts";

const IMAGE: ContentPart = { type: "image", data: "AAAA", media_type: "image/png" };

test("text alone is text, and with images a part", () => {
  expect(contentOf("Look.", [])).toBe("Look.");
  expect(contentOf("Look.", [IMAGE])).toEqual([{ type: "text", text: "Look." }, IMAGE]);
  expect(contentOf("", [IMAGE])).toEqual([IMAGE]);
});

test("an edit leaves the images where they are", () => {
  expect(withText("Look.", "See.")).toBe("See.");
  expect(withText([{ type: "text", text: "Look." }, IMAGE], "See.")).toEqual([{ type: "text", text: "See." }, IMAGE]);
});

test("so many bytes are so many characters", () => {
  for (const bytes of [0, 1, 2, 3, 4, 1_000]) expect(base64Length(bytes)).toBe(btoa("\0".repeat(bytes)).length);
});
