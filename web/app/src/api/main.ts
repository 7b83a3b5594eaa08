// Shows what can be asked of this server: `openapi.json` and `asyncapi.json`, as tables.

import "../styles/page.css";
import "./api.css";
import { code, folded, make, prose, table, titled } from "./elements.ts";
import type { Child } from "./elements.ts";
import { fieldsOf, nameOf, shape } from "./schema.ts";
import type { Schema } from "./schema.ts";

interface Reference {
  $ref: string;
}

type Bodies = Record<string, { schema?: Schema }>;

interface HttpOperation {
  operationId: string;
  summary: string;
  description?: string;
  tags: string[];
  parameters?: { name: string; in: string; schema: Schema; required?: boolean; description?: string }[];
  requestBody?: { content: Bodies };
  responses: Record<string, { description: string; content?: Bodies }>;
}

const METHODS = ["get", "post", "put", "patch", "delete"] as const;

interface HttpDocument {
  info: { version: string; description: string };
  tags: { name: string; description: string }[];
  paths: Record<string, Partial<Record<(typeof METHODS)[number], HttpOperation>>>;
  components: { schemas: Record<string, Schema> };
}

interface SocketOperation {
  action: "send" | "receive";
  summary: string;
  messages: Reference[];
  reply?: { messages: Reference[] };
}

interface SocketDocument {
  info: { description: string };
  channels: { ws: { address: string; description: string } };
  operations: Record<string, SocketOperation>;
  components: { messages: Record<string, { name: string; payload: Schema }>; schemas: Record<string, Schema> };
  "x-error-codes": Record<string, { http_status: number; close_code?: number | null; retryable: boolean }>;
}

function named(id: string): HTMLElement {
  const element = document.getElementById(id);
  if (!element) throw new Error(`api.html has no #${id}`);
  return element;
}

/** Fill a section of the page, and show it. */
function fill(id: string, ...content: Child[]): void {
  const section = named(id);
  section.append(...content);
  section.hidden = false;
}

// ------------------------------------------------------------------------------------------------ HTTP

function bodyOf(content: Bodies = {}): Child[] {
  return Object.entries(content).flatMap(([media, { schema }]) => [
    make("p", {}, code(media)),
    ...(schema ? [fieldsOf(schema)] : []),
  ]);
}

function operation(path: string, method: string, said: HttpOperation): HTMLElement {
  const inside: Child[] = [];
  if (said.description) inside.push(make("p", {}, prose(said.description)));
  if (said.parameters) {
    const rows = said.parameters.map((one): Child[] => [
      code(one.name), one.in, shape(one.schema), one.required ? "always" : "may be left out", one.description ?? "",
    ]);
    inside.push(...titled("Parameters", table(["name", "in", "takes", "when", "what"], rows)));
  }
  if (said.requestBody) inside.push(...titled("Body", ...bodyOf(said.requestBody.content)));
  for (const [status, answer] of Object.entries(said.responses)) {
    inside.push(...titled(`Answer ${status}`, make("p", {}, prose(answer.description)), ...bodyOf(answer.content)));
  }
  const head = [make("span", { className: "method" }, method.toUpperCase()), code(path), ` ${said.summary}`];
  return folded(`operation-${said.operationId}`, head, ...inside);
}

function showHttp(described: HttpDocument): void {
  const groups = described.tags.flatMap((tag): Child[] => {
    const inside = Object.entries(described.paths).flatMap(([path, item]) => METHODS.flatMap((method) => {
      const said = item[method];
      return said?.tags[0] === tag.name ? [operation(path, method, said)] : [];
    }));
    return [make("h3", { id: `group-${tag.name}` }, tag.name), make("p", {}, tag.description), ...inside];
  });
  fill("http", make("p", {}, prose(described.info.description)), ...groups);
}

// ------------------------------------------------------------------------------------------------ WebSocket

function showWebSocket(described: SocketDocument): void {
  const { messages } = described.components;
  const messageOf = ({ $ref }: Reference) => messages[nameOf($ref)] ?? { name: nameOf($ref), payload: {} };
  const frame = (reference: Reference): Child[] => {
    const message = messageOf(reference);
    return [make("p", {}, code(message.name)), fieldsOf(message.payload)];
  };
  const operations = Object.entries(described.operations);
  const commands = operations.filter(([, one]) => one.action === "receive").map(([name, one]) => {
    // `error` is described once.
    const replies = (one.reply?.messages ?? []).filter(({ $ref }) => nameOf($ref) !== "frame.error");
    const answer = replies.length ? replies.flatMap(frame) : [make("p", {}, "none")];
    return folded(`command-${name}`, [code(name)],
      ...titled("Command", ...one.messages.flatMap(frame)), ...titled("Answer", ...answer));
  });
  const said = operations.filter(([, one]) => one.action !== "receive").flatMap(([name, one]): Child[] => [
    make("h3", { id: `group-${name}` }, name.replace("_", " ")),
    make("p", {}, one.summary),
    ...one.messages.map((each) => folded(nameOf(each.$ref), [code(messageOf(each).name)], ...frame(each))),
  ]);
  const { address, description } = described.channels.ws;
  fill(
    "websocket",
    make("p", {}, prose(described.info.description)),
    make("p", {}, "At ", code(address), ". ", prose(description)),
    make("h3", { id: "group-commands" }, "commands"),
    ...commands,
    ...said,
  );
}

// ------------------------------------------------------------------------------------------------ the rest

function showErrors(codes: SocketDocument["x-error-codes"]): void {
  const rows = Object.entries(codes).map(([name, fault]): Child[] =>
    [code(name), String(fault.http_status), String(fault.close_code ?? ""), fault.retryable ? "yes" : "no"]);
  fill("errors", table(["code", "HTTP status", "close code", "worth trying again"], rows));
}

function showTypes(schemas: Record<string, Schema>): void {
  const sorted = Object.entries(schemas).sort(([one], [other]) => (one < other ? -1 : 1));
  fill("types", ...sorted.map(([name, schema]) => folded(`type-${name}`, [code(name)], fieldsOf(schema))));
}

function showContents(): void {
  const links = [...document.querySelectorAll("main section h2, main section h3")].map((heading) =>
    make("li", {}, make("a", { href: `#${heading.id}` }, heading.textContent)));
  named("contents").append(make("ul", {}, ...links));
}

/** Open what the address names: a fold that is closed cannot be seen. */
function reveal(): void {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
  target?.scrollIntoView();
}

async function read<T>(name: string): Promise<T> {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return answer.json() as Promise<T>;
}

async function show(): Promise<string> {
  const [http, socket] = await Promise.all([read<HttpDocument>("openapi.json"), read<SocketDocument>("asyncapi.json")]);
  showHttp(http);
  showWebSocket(socket);
  showErrors(socket["x-error-codes"]);
  showTypes({ ...socket.components.schemas, ...http.components.schemas });
  showContents();
  addEventListener("hashchange", reveal);
  reveal();
  return `Everstream ${http.info.version}`;
}

const state = named("state");
show().then(
  (text) => { state.textContent = text; },
  (error: unknown) => { state.textContent = `The description could not be loaded (${error}): reload the page.`; },
);
