// What the reader chose: the model and its parameters, and how the page looks.  Kept for every tab and the next visit.
//
// Fields are kept as they were typed.  What is not a number where one is wanted is as good as nothing: the provider's
// own default then holds.

import { Changes } from "./changes.ts";
import { keep, keptObject, type Store } from "./storage.ts";

const STORAGE_KEY = "everstream.settings.1";
export const SCRIPTED = "scripted/";

export type Theme = "system" | "light" | "dark";
export type Display = "smooth" | "raw";
export type SendKey = "enter" | "mod-enter";

/** By the ids of the fields that show them. */
export interface Chosen {
  model: string;
  system: string;
  temperature: string;
  "max-tokens": string;
  thinking: boolean;
  tokens: string;
  rate: string;
  theme: Theme;
  display: Display;
  "send-key": SendKey;
}

const DEFAULTS: Chosen = {
  model: "",
  system: "",
  temperature: "",
  "max-tokens": "",
  thinking: false,
  tokens: "",
  rate: "",
  theme: "system",
  display: "smooth",
  "send-key": "enter",
};

const CHOICES: { [name in keyof Chosen]?: readonly string[] } = {
  theme: ["system", "light", "dark"],
  display: ["smooth", "raw"],
  "send-key": ["enter", "mod-enter"],
};

interface NumberField {
  field: "temperature" | "max-tokens" | "tokens" | "rate";
  param: string;
  least: number;
  whole: boolean;
  scripted: boolean; // only scripted models know it
}

const NUMBERS: readonly NumberField[] = [
  { field: "temperature", param: "temperature", least: 0, whole: false, scripted: false },
  { field: "max-tokens", param: "max_tokens", least: 1, whole: true, scripted: false },
  { field: "tokens", param: "tokens", least: 1, whole: true, scripted: true },
  { field: "rate", param: "rate", least: 0, whole: false, scripted: true },
];

export class Settings {
  readonly #store: Store;
  readonly #changes = new Changes();
  readonly on = this.#changes.on;
  #chosen: Chosen;

  constructor(store: Store) {
    this.#store = store;
    this.#chosen = chosenIn(keptObject(store, STORAGE_KEY));
  }

  get chosen(): Readonly<Chosen> {
    return this.#chosen;
  }

  set<Name extends keyof Chosen>(name: Name, value: Chosen[Name]): void {
    if (this.#chosen[name] === value) return;
    this.#chosen = { ...this.#chosen, [name]: value };
    keep(this.#store, STORAGE_KEY, JSON.stringify(this.#chosen));
    this.#changes.tell();
  }

  /** Another tab has chosen. */
  readAgain(): void {
    this.#chosen = chosenIn(keptObject(this.#store, STORAGE_KEY));
    this.#changes.tell();
  }

  /** The parameters for `model`: those that were filled in and that it knows.  `thinks`: whether it can think. */
  params(model: string, thinks: boolean): Record<string, unknown> {
    const params: Record<string, unknown> = {};
    for (const { field, param, least, whole, scripted } of NUMBERS) {
      const value = numberIn(this.#chosen[field], least, whole);
      if (value !== null && (!scripted || model.startsWith(SCRIPTED))) params[param] = value;
    }
    if (this.#chosen.thinking && thinks) params.thinking = true;
    return params;
  }
}

/** The number that a field holds, or null. */
export function numberIn(typed: string, least: number, whole: boolean): number | null {
  if (typed.trim() === "") return null;
  const value = Number(typed);
  return Number.isFinite(value) && value >= least && (!whole || Number.isInteger(value)) ? value : null;
}

/** Settings of an older page, or of somebody's making, hold what they hold: only what fits is taken. */
function chosenIn(stored: Record<string, unknown>): Chosen {
  const fits = Object.entries(stored).filter(([name, value]) => {
    if (!Object.hasOwn(DEFAULTS, name)) return false;
    const known = name as keyof Chosen;
    return typeof value === typeof DEFAULTS[known] && (CHOICES[known]?.includes(String(value)) ?? true);
  });
  return { ...DEFAULTS, ...Object.fromEntries(fits) };
}
