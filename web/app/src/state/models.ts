// Which models there are to choose from, and what stands in the way of the others.

import type { Model } from "@everstream/client";

import { SCRIPTED } from "./settings.ts";

export interface Offer {
  usable: readonly Model[];
  /** For each way to get more models (not for each model): a provider's name, and what is to be done. */
  ways: readonly { provider: string; how: string }[];
  onlyScripted: boolean;
}

export const NOTHING: Offer = { usable: [], ways: [], onlyScripted: false };

export function offerOf(models: readonly Model[]): Offer {
  const usable = models.filter((model) => model.usable);
  const ways = new Map<string, string>();
  for (const model of models) {
    const how = model.why_not ?? "is not usable";
    if (!model.usable && !ways.has(how)) ways.set(how, model.id.slice(0, model.id.indexOf("/")));
  }
  return {
    usable,
    ways: [...ways].map(([how, provider]) => ({ provider, how })),
    onlyScripted: usable.every(({ id }) => id.startsWith(SCRIPTED)),
  };
}

/** The first of `wanted` that can be had; without one, a real model, and a scripted one where there is none. */
export function chosenModel({ usable }: Offer, ...wanted: readonly string[]): string {
  const known = wanted.find((id) => id !== "" && usable.some((model) => model.id === id));
  if (known !== undefined) return known;
  const real = usable.find(({ id }) => !id.startsWith(SCRIPTED));
  return (real ?? usable.find(({ id }) => id === "scripted/lorem") ?? usable[0])?.id ?? "";
}
