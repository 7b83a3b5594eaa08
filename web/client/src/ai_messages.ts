// What a page of the AI SDK asks, as a request to a model.
//
// A page holds the whole conversation as messages made of parts.  What models are told of is text, images, calls of
// tools and their results; reasoning, sources, data and step marks are for people and are left out.  So is a call
// without a result: models refuse a conversation that has one, and a person who stopped the answer may still write on.

import type { UiChunk, UiMessage } from "./ai_types.ts";
import { CommandError } from "./errors.ts";
import type { Content, ContentPart, Message, Tool } from "./frames.ts";

type Part = { type: string } & Record<string, unknown>;

/** Tools as a list, or by name; `inputSchema` and `parameters` are the same: a JSON Schema. */
export type UiTools = Record<string, UiTool> | readonly (UiTool & { name: string })[];

export interface UiTool {
  description?: string;
  inputSchema?: Record<string, unknown>;
  parameters?: Record<string, unknown>;
}

const DATA_URL = /^data:([\w.+-]+\/[\w.+-]+)(?:;[\w.+-]+=[^;,]*)*;base64,(.*)$/s;
const UNTOLD: ReadonlySet<string> = new Set(["reasoning", "reasoning-file", "custom", "source-url", "source-document"]);

export function toolsOf(tools: UiTools): Tool[] {
  const named = Array.isArray(tools) ? tools : Object.entries(tools).map(([name, tool]) => ({ ...tool, name }));
  return named.map(({ name, description, inputSchema, parameters }: UiTool & { name: string }) => {
    const tool = { name, parameters: parameters ?? inputSchema ?? {} };
    return description ? { ...tool, description } : tool;
  });
}

/** The conversation for a model.  Raises CommandError `request.invalid` for what no model can be told. */
export function messagesOf(messages: readonly UiMessage[]): Message[] {
  return messages.flatMap(({ role, parts }) => {
    if (role === "assistant") return byAssistant(parts as readonly Part[]);
    if (role === "user") return byUser(parts as readonly Part[]);
    return [{ role, content: textIn(parts as readonly Part[]) }];
  });
}

/** The assistant's message that the page will go on writing: the one that it names, else the last. */
export function continuedIn(messages: readonly UiMessage[], wanted: string | undefined): UiMessage | null {
  const message = messages.find(({ id }) => id === wanted) ?? messages.at(-1);
  return message?.role === "assistant" && message.parts.length > 0 ? message : null;
}

function byUser(parts: readonly Part[]): Message[] {
  const told = parts.filter(({ type }) => !isUntold(type));
  const content = told.map((part): ContentPart => {
    if (part.type === "text") return { type: "text", text: textOf(part) };
    if (part.type === "file") return imageOf(part);
    throw invalid(`a user's message cannot have a part of the type ${part.type}`);
  });
  const [first, ...others] = content;
  const whole: Content = first?.type === "text" && others.length === 0 ? first.text : content;
  return content.length > 0 ? [{ role: "user", content: whole }] : [];
}

/** The model's message for each step, with the results of its calls after it. */
function byAssistant(parts: readonly Part[]): Message[] {
  const said: Message[] = [];
  let step: Part[] = [];
  for (const part of [...parts, { type: "step-start" } as Part]) {
    if (part.type === "step-start" || part.type === "steering-message") {
      said.push(...stepOf(step));
      step = [];
    }
    if (part.type === "steering-message") said.push(...byUser(part.parts as Part[])); // what a person said meanwhile
    else if (part.type === "text" || isTool(part.type)) step.push(part);
  }
  return said;
}

function stepOf(parts: readonly Part[]): Message[] {
  const calls = parts.filter((part) => isTool(part.type)).map((part) => ({ part, result: resultOf(part) }));
  const answered = calls.filter((call): call is { part: Part; result: Message } => call.result !== null);
  const content = textIn(parts);
  if (content === "" && answered.length === 0) return [];
  const tool_calls = answered.map(({ part }) => ({
    call_id: String(part.toolCallId),
    name: toolName(part),
    arguments: JSON.stringify(part.input ?? part.rawInput ?? {}),
  }));
  const said: Message = { role: "assistant", content, ...(tool_calls.length > 0 && { tool_calls }) };
  return [said, ...answered.map(({ result }) => result)];
}

/** What a tool answered; null where it has not. */
function resultOf(part: Part): Message | null {
  const { state, output, errorText } = part;
  const told = { role: "tool", call_id: String(part.toolCallId) } as const;
  if (state === "output-available") {
    return { ...told, content: typeof output === "string" ? output : JSON.stringify(output ?? null) };
  }
  if (state === "output-error") return { ...told, content: String(errorText || "the tool failed"), is_error: true };
  const approval = part.approval as { approved?: boolean; reason?: string } | undefined;
  if (state === "output-denied" || (state === "approval-responded" && approval?.approved === false)) {
    return { ...told, content: approval?.reason || "the user denied this", is_error: true };
  }
  return null;
}

function imageOf({ url, mediaType }: Part): ContentPart {
  const [inline, kind = String(mediaType ?? ""), data = ""] = DATA_URL.exec(String(url)) ?? [];
  if (!kind.startsWith("image")) throw invalid(`files of the type ${kind} are not taken: only images are`);
  return inline === undefined ? { type: "image", url: String(url) } : { type: "image", data, media_type: kind };
}

// ---------------------------------------------------------------------- the same parts as chunks

/** What a message holds already, for a page that empties it and is sent it anew. */
export function chunksOf({ parts }: UiMessage): UiChunk[] {
  return (parts as readonly Part[]).flatMap((part, number): UiChunk[] => {
    const { type } = part;
    const id = `earlier-${number}`;
    if (type === "step-start") return [{ type: "start-step" }];
    if (isTool(type)) return callChunks(part);
    if (type !== "text" && type !== "reasoning") return [part as unknown as UiChunk]; // it has the fields of its chunk
    const delta: UiChunk = { type: `${type}-delta`, id, delta: textOf(part) };
    return [{ type: `${type}-start`, id }, delta, { type: `${type}-end`, id }];
  });
}

/** A call and its result.  That it is whole is not said where there is one: the page would carry it out again. */
function callChunks(part: Part): UiChunk[] {
  const { state, input, output, errorText } = part;
  const call = { toolCallId: String(part.toolCallId) };
  const named = { ...call, toolName: toolName(part), ...(part.type === "dynamic-tool" && { dynamic: true }) };
  const chunks: UiChunk[] = [{ type: "tool-input-start", ...named }];
  if (input !== undefined) chunks.push({ type: "tool-input-delta", ...call, inputTextDelta: JSON.stringify(input) });
  if (state === "output-available") chunks.push({ type: "tool-output-available", ...call, output });
  else if (state === "output-error") {
    chunks.push({ type: "tool-output-error", ...call, errorText: String(errorText ?? "") });
  } else if (state === "output-denied") chunks.push({ type: "tool-output-denied", ...call });
  else if (state === "input-available") chunks.push({ type: "tool-input-available", ...named, input });
  return chunks;
}

// ---------------------------------------------------------------------- fields

function isTool(type: string): boolean {
  return type === "dynamic-tool" || type.startsWith("tool-");
}

function isUntold(type: string): boolean {
  return UNTOLD.has(type) || type.startsWith("data-");
}

function toolName(part: Part): string {
  return part.type === "dynamic-tool" ? String(part.toolName) : part.type.slice("tool-".length);
}

function textOf(part: Part): string {
  return typeof part.text === "string" ? part.text : "";
}

function textIn(parts: readonly Part[]): string {
  return parts.map((part) => (part.type === "text" ? textOf(part) : "")).join("");
}

function invalid(message: string): CommandError {
  return new CommandError({ code: "request.invalid", message });
}
