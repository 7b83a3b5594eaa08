// What a side's answers are asked with, as somebody fills it in.

import type { Params } from "@everstream/client";

export interface Field {
  readonly name: string;
  readonly label: string;
  readonly param: string;
  readonly kind: "number" | "whole" | "check" | "text";
  readonly scripted?: boolean; // only scripted models know it
  readonly min?: number;
  readonly max?: number;
  readonly step?: number;
  readonly hint?: string;
}

export type Filled = Readonly<Record<string, string | boolean>>;

export const SCRIPTED = "scripted/";

export const FIELDS: readonly Field[] = [
  { name: "system", label: "System prompt", param: "system", kind: "text" },
  { name: "temperature", label: "Temperature", param: "temperature", kind: "number", min: 0, max: 2, step: 0.1 },
  { name: "max-tokens", label: "Most tokens", param: "max_tokens", kind: "whole", min: 1 },
  { name: "thinking", label: "Think first", param: "thinking", kind: "check" },
  { name: "tokens", label: "Tokens", param: "tokens", kind: "whole", min: 0, scripted: true },
  { name: "rate", label: "Tokens a second", param: "rate", kind: "number", min: 0, scripted: true },
  { name: "ttft", label: "First token after (ms)", param: "ttft_ms", kind: "number", min: 0, scripted: true },
];

/** Those that mean something to `model`. */
export function fieldsFor(model: string): Field[] {
  return FIELDS.filter((field) => !field.scripted || model.startsWith(SCRIPTED));
}

/** The parameters: of what was filled in, what is valid and what `model` knows. */
export function paramsOf(model: string, filled: Filled): Params {
  const params: Params = {};
  for (const field of fieldsFor(model)) {
    const value = read(field, filled[field.name]);
    if (value !== undefined) params[field.param] = value;
  }
  return params;
}

function read(field: Field, filled: string | boolean | undefined): string | number | true | undefined {
  if (field.kind === "check") return filled === true ? true : undefined;
  if (typeof filled !== "string" || filled.trim() === "") return undefined;
  if (field.kind === "text") return filled.trim();
  const value = field.kind === "whole" ? Math.round(Number(filled)) : Number(filled);
  const fits = value >= (field.min ?? -Infinity) && value <= (field.max ?? Infinity);
  return Number.isFinite(value) && fits ? value : undefined;
}
