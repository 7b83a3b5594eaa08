// A JSON schema as people read it: by its fields, and a type that others are made of by its name, which leads to its
// own table.

import { code, joined, make, prose, table } from "./elements.ts";
import type { Child } from "./elements.ts";

export interface Schema {
  $ref?: string;
  type?: string | string[];
  description?: string;
  const?: unknown;
  enum?: unknown[];
  default?: unknown;
  anyOf?: Schema[];
  oneOf?: Schema[];
  items?: Schema;
  properties?: Record<string, Schema>;
  additionalProperties?: boolean | Schema;
  required?: string[];
  pattern?: string;
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
  minItems?: number;
  maxItems?: number;
}

export const nameOf = (reference: string): string => reference.slice(reference.lastIndexOf("/") + 1);

/** What a schema takes, in one line, with a link to each type that is named in it. */
export function shape(schema: Schema): HTMLElement {
  if (schema.$ref) return make("a", { href: `#type-${nameOf(schema.$ref)}` }, nameOf(schema.$ref));
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return joined(choices.map(shape), " | ");
  if (schema.const !== undefined) return code(JSON.stringify(schema.const));
  if (schema.enum) return joined(schema.enum.map((value) => code(JSON.stringify(value))), " | ");
  if (schema.type === "array") return joined(["[", shape(schema.items ?? {}), ", …]"], "");
  if (schema.type === "object" && typeof schema.additionalProperties === "object") {
    return joined(["{…: ", shape(schema.additionalProperties), "}"], "");
  }
  return make("span", {}, [schema.type ?? "anything"].flat().join(" | "), bounds(schema));
}

const BOUNDS = [
  ["minimum", "maximum", ""],
  ["minLength", "maxLength", " characters"],
  ["minItems", "maxItems", " items"],
] as const;

function bounds(schema: Schema): HTMLElement {
  const said = BOUNDS.filter(([least, most]) => schema[least] !== undefined || schema[most] !== undefined)
    .map(([least, most, unit]) => ` ${schema[least] ?? ""}…${schema[most] ?? ""}${unit}`);
  const pattern = schema.pattern ? [" ", code(schema.pattern)] : [];
  return make("span", { className: "quiet" }, said.join(","), ...pattern);
}

/** A schema by its fields, or in one line where it has none. */
export function fieldsOf(schema: Schema): HTMLElement {
  if (!schema.properties) return make("p", {}, shape(schema));
  const needed = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties).map(([name, of]): Child[] => {
    const preset = of.default === undefined || of.default === null ? "" : `, else ${JSON.stringify(of.default)}`;
    return [code(name), shape(of), needed.has(name) ? "always" : `may be left out${preset}`];
  });
  const said = schema.description ? [make("p", {}, prose(schema.description))] : [];
  if (!rows.length) return make("div", {}, ...said, make("p", { className: "quiet" }, "no fields of its own"));
  return make("div", {}, ...said, table(["field", "takes", "when"], rows));
}
