// What the reader chose, and what becomes of it in a command.

import { expect, test } from "vitest";

import { Settings, numberIn } from "../src/state/settings.ts";
import { storeOf } from "../src/state/storage.ts";
import { MemoryStore } from "./doubles.ts";

const KEY = "everstream.settings.1";

test("choices outlast the page", () => {
  const store = new MemoryStore();
  new Settings(store).set("temperature", "0.5");
  const again = new Settings(store);
  expect(again.chosen.temperature).toBe("0.5");
  expect(again.chosen["max-tokens"]).toBe("");
});

test("where a store may not even be asked for, choices last as long as the page", () => {
  const store = storeOf(() => {
    throw new DOMException("forbidden", "SecurityError");
  });
  new Settings(store).set("theme", "dark");
  expect(new Settings(store).chosen.theme).toBe("dark");
});

test("a store that is full keeps nothing and breaks nothing", () => {
  const settings = new Settings(new MemoryStore(10));
  settings.set("system", "Be brief.");
  expect(settings.chosen.system).toBe("Be brief.");
});

test.each(["[]", "null", "7", "{", '{"theme": "pink", "thinking": "yes", "temperature": 3, "unknown": 1}'])(
  "what somebody else has stored (%s) is as good as nothing",
  (stored) => {
    const store = new MemoryStore();
    store.setItem(KEY, stored);
    const { chosen } = new Settings(store);
    expect(chosen).toEqual(new Settings(new MemoryStore()).chosen);
  },
);

test("parameters are those that were filled in and that the model knows", () => {
  const settings = new Settings(new MemoryStore());
  settings.set("temperature", "0");
  settings.set("max-tokens", "5");
  settings.set("tokens", "9");
  settings.set("rate", "0");
  settings.set("thinking", true);
  expect(settings.params("openai/one", true)).toEqual({ temperature: 0, max_tokens: 5, thinking: true });
  const played = { temperature: 0, max_tokens: 5, tokens: 9, rate: 0 };
  expect(settings.params("scripted/count", false)).toEqual(played);
});

test.each([
  ["", 0, false, null],
  [" ", 0, false, null],
  ["0.5", 0, false, 0.5],
  ["-1", 0, false, null],
  ["2.5", 1, true, null],
  ["3", 1, true, 3],
  ["0", 1, true, null],
  ["1e3", 1, true, 1000],
  ["Infinity", 0, false, null],
  ["two", 0, false, null],
])("of %j a field of least %d, whole %s, reads %s", (typed, least, whole, value) => {
  expect(numberIn(typed, least, whole)).toBe(value);
});

test("listeners are told of a choice, and not of one that changes nothing", () => {
  const settings = new Settings(new MemoryStore());
  let told = 0;
  const stop = settings.on(() => told++);
  settings.set("theme", "dark");
  settings.set("theme", "dark");
  expect(told).toBe(1);
  stop();
  settings.set("theme", "light");
  expect(told).toBe(1);
});
