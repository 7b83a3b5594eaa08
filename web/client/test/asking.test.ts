// Of several questions about one place only the newest one is answered.

import { expect, it } from "vitest";

import { Asking } from "../src/asking.ts";
import { lost } from "../src/errors.ts";
import type { Answered, Wire } from "../src/wire.ts";

it("hears the newest answer alone, and of no lost connection", () => {
  const waiting: Answered[] = [];
  const wire = { state: "open", ask: (_: object, answered: Answered) => waiting.push(answered) } as unknown as Wire;
  const asking = new Asking(wire);
  const place = { id: "r_1", waiting: false };
  const heard: string[] = [];
  for (const name of ["first", "second"]) {
    const answered = () => heard.push(name);
    asking.ask(place, { type: "subscribe", stream: "r_1" }, answered, () => heard.push(`${name} failed`));
  }
  expect([place.waiting, asking.has("r_1")]).toEqual([true, true]);
  waiting[0]?.({ type: "ok" }, null);
  expect([heard, asking.has("r_1")]).toEqual([[], true]);
  waiting[1]?.(null, lost());
  expect([heard, asking.has("r_1")]).toEqual([[], false]);
});
