// What a tab keeps for its next load.

import { type SavedSession, newSession, newStream } from "@everstream/client";
import { expect, test } from "vitest";

import { forgetTab, loadDraft, loadTab, saveDraft, saveTab } from "../src/state/kept.ts";
import { MemoryStore } from "./doubles.ts";

function saved(id: string, text = ""): SavedSession {
  const stream = { ...newStream("r_1"), text };
  return { session: { ...newSession(id), streams: { r_1: stream } }, choices: { "": "m_1" }, stopping: ["t_1"] };
}

test("a session is taken up as it stood", () => {
  const store = new MemoryStore();
  saveTab(store, saved("s_1", "One two"));
  expect(loadTab(store, "s_1")).toEqual(saved("s_1", "One two"));
});

test("what an older page has kept is filled up", () => {
  const store = new MemoryStore();
  const session = { id: "s_1", title: "Old", streams: { r_1: { id: "r_1", text: "One" } } };
  store.setItem("everstream.tab.2", JSON.stringify({ session }));
  const loaded = loadTab(store, "s_1");
  const streams = { r_1: { ...newStream("r_1"), text: "One" } };
  expect(loaded).toEqual({ session: { ...newSession("s_1"), title: "Old", streams }, choices: {}, stopping: [] });
});

test("of another session only the branches that were chosen are known", () => {
  const store = new MemoryStore();
  saveTab(store, saved("s_1"));
  saveTab(store, saved("s_2"));
  expect(loadTab(store, "s_1")).toEqual({ session: null, choices: { "": "m_1" }, stopping: [] });
  expect(loadTab(store, "s_3")).toEqual({ session: null, choices: {}, stopping: [] });
});

test("what does not fit is kept without its streams, which the server has", () => {
  const store = new MemoryStore(2_000);
  saveTab(store, saved("s_1", "long ".repeat(1_000)));
  const { session } = loadTab(store, "s_1");
  expect(session?.id).toBe("s_1");
  expect(session?.streams).toEqual({});
});

test("where nothing fits, nothing old is left either", () => {
  const store = new MemoryStore(40);
  store.held.set("everstream.tab.2", JSON.stringify(saved("s_1")));
  saveTab(store, saved("s_1"));
  expect(loadTab(store, "s_1").session).toBeNull();
});

test("a forgotten tab holds nothing of what was written", () => {
  const store = new MemoryStore();
  saveTab(store, saved("s_1", "secret"));
  saveDraft(store, "a secret");
  expect(loadDraft(store)).toBe("a secret");
  forgetTab(store);
  expect([...store.held.values()].join("")).not.toContain("secret");
});
