// The list of sessions.

import { CommandError, newSession, type SessionInfo } from "@everstream/client";
import { expect, test } from "vitest";

import { Listing } from "../src/state/listing.ts";
import { listed } from "./doubles.ts";

type Page = { sessions: SessionInfo[]; next: string | null };

/** A client whose answers come when, and as, the test says. */
function asked(): { list: Listing; answers: ((page: Page | CommandError) => void)[] } {
  const answers: ((page: Page | CommandError) => void)[] = [];
  const sessions = (): Promise<Page> =>
    new Promise((resolve, reject) => {
      answers.push((page) => (page instanceof Error ? reject(page) : resolve(page)));
    });
  return { list: new Listing({ sessions }), answers };
}

const idsOf = (list: Listing): string[] => list.sessions.map(({ session }) => session);

test("a further page stands behind what is here, and nothing twice", async () => {
  const { list, answers } = asked();
  const first = list.load();
  answers[0]?.({ sessions: [listed("s_3"), listed("s_2")], next: "s_2" });
  await first;
  const second = list.load(list.next);
  answers[1]?.({ sessions: [listed("s_2"), listed("s_1")], next: null });
  await second;
  expect(idsOf(list)).toEqual(["s_3", "s_2", "s_1"]);
  expect(list.next).toBeNull();
});

test("an answer that a newer question has overtaken counts for nothing", async () => {
  const { list, answers } = asked();
  const both = [list.load(), list.load()];
  answers[1]?.({ sessions: [listed("s_2")], next: null });
  answers[0]?.({ sessions: [listed("s_1")], next: null });
  await Promise.all(both);
  expect(idsOf(list)).toEqual(["s_2"]);
});

test("a lost connection says nothing, and a refusal why", async () => {
  const { list, answers } = asked();
  const lost = list.load();
  answers[0]?.(new CommandError({ code: "connection.lost", message: "lost" }));
  await lost;
  expect([list.failure, list.known]).toEqual(["", false]);
  const refused = list.load();
  answers[1]?.(new CommandError({ code: "store.unavailable", message: "not now" }));
  await refused;
  expect(list.failure).toBe("not now");
});

test("the open session's title is newer than the list, and words find it in any order", async () => {
  const { list, answers } = asked();
  const load = list.load();
  answers[0]?.({ sessions: [listed("s_2", "Tall ships"), listed("s_1", "")], next: null });
  await load;
  list.name({ ...newSession("s_1"), opened: true, title: "A lighthouse keeper" });
  expect(list.found("KEEPER light").map(({ session }) => session)).toEqual(["s_1"]);
  expect(list.found("  ").length).toBe(2);
  expect(list.found("submarine")).toEqual([]);
});
