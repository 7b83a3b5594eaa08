// What a screen reader is given to read.

import { expect, test } from "vitest";

import { Speaker } from "../src/state/speaker.ts";

function listened(): { said: string[]; speaker: Speaker } {
  const said: string[] = [];
  return { said, speaker: new Speaker((text) => said.push(text), 1_000) };
}

test("whole sentences are said, and none twice", () => {
  const { said, speaker } = listened();
  speaker.begin();
  speaker.follow("One. Tw", 5_000);
  speaker.follow("One. Two. Thr", 5_500); // too soon
  speaker.follow("One. Two. Thr", 6_500);
  speaker.finish("One. Two. Three", "The answer is complete.");
  expect(said).toEqual(["One.", " Two.", "Three The answer is complete."]);
});

test("what was read before is not said again", () => {
  const { said, speaker } = listened();
  speaker.begin("One. ".length);
  speaker.follow("One. Two. ", 5_000);
  expect(said).toEqual(["Two."]);
});

test("an answer that begins anew is said from its start", () => {
  const { said, speaker } = listened();
  speaker.begin();
  speaker.follow("One. Two. ", 5_000);
  speaker.follow("Uno. ", 7_000);
  expect(said).toEqual(["One. Two.", "Uno."]);
});
