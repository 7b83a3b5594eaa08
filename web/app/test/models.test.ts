// Which models are offered, and which one is taken.

import { expect, test } from "vitest";

import { chosenModel, offerOf } from "../src/state/models.ts";
import { model } from "./doubles.ts";

const LOREM = model("scripted/lorem");
const COUNT = model("scripted/count");
const REAL = model("openai/one");

test("only usable models are offered, and each way to more is named once", () => {
  const closed = { usable: false, why_not: "set OPENAI_API_KEY" };
  const offer = offerOf([LOREM, model("openai/one", closed), model("openai/two", closed)]);
  expect(offer.usable).toEqual([LOREM]);
  expect(offer.ways).toEqual([{ provider: "openai", how: "set OPENAI_API_KEY" }]);
  expect(offer.onlyScripted).toBe(true);
  expect(offerOf([LOREM, REAL]).onlyScripted).toBe(false);
});

test("the first choice that can be had is taken", () => {
  const offer = offerOf([COUNT, LOREM, REAL]);
  expect(chosenModel(offer, "", "gone/away", "scripted/count")).toBe("scripted/count");
  expect(chosenModel(offer, "openai/one", "scripted/count")).toBe("openai/one");
});

test("who has chosen nothing gets a real model, and a story where there is none", () => {
  expect(chosenModel(offerOf([COUNT, LOREM, REAL]), "")).toBe("openai/one");
  expect(chosenModel(offerOf([COUNT, LOREM]), "")).toBe("scripted/lorem");
  expect(chosenModel(offerOf([COUNT]))).toBe("scripted/count");
  expect(chosenModel(offerOf([]), "openai/one")).toBe("");
});
