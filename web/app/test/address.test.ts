// The session that the address names.

import { expect, test } from "vitest";

import { fileName, hashOf, sessionIn } from "../src/state/address.ts";

test("an address names a session, or nothing", () => {
  expect(sessionIn(hashOf("s_0a"))).toBe("s_0a");
  const others = ["", "#", "#prompt", "#s_", "#s_A", "#s_0a/b", "#r_0a", "# s_0a"];
  expect(others.map(sessionIn)).toEqual(others.map(() => null));
});

test.each([
  ["Count / to three.", "Count-to-three.md"],
  ["", "chat.md"],
  ["../../etc", "etc.md"],
  ["日本の灯台", "日本の灯台.md"],
])("a chat called %j is kept in %s", (title, name) => {
  expect(fileName(title, "md")).toBe(name);
});
