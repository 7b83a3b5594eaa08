// Shows what can be asked of this server: `openapi.json` and `asyncapi.json`, as tables.
//
// A schema is shown by its fields, and a type that others are made of by its name, which leads to its own table below.
// Texts are put into the page as texts: what stands in `code` quotes in them is set as code, and nothing else.

const METHODS = ["get", "post", "put", "patch", "delete"];

/** An element with what is in it; a text becomes text. */
function make(tag, fields, ...children) {
  const element = Object.assign(document.createElement(tag), fields);
  element.append(...children.filter((child) => child !== null));
  return element;
}

const code = (text) => make("code", {}, text);

/** A text in which what is in `code` quotes is code. */
function prose(text) {
  const parts = text.split("`");
  return make("span", {}, ...parts.map((part, at) => (at % 2 ? code(part) : part)));
}

const nameOf = (reference) => reference.slice(reference.lastIndexOf("/") + 1);

/** What a schema takes, in one line, with a link to each type that is named in it. */
function shape(schema) {
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

function joined(parts, between) {
  return make("span", {}, ...parts.flatMap((part, at) => (at ? [between, part] : [part])));
}

function bounds(schema) {
  const said = [];
  for (const [least, most, unit] of [["minimum", "maximum", ""], ["minLength", "maxLength", " characters"],
    ["minItems", "maxItems", " items"]]) {
    if (schema[least] === undefined && schema[most] === undefined) continue;
    said.push(` ${schema[least] ?? ""}…${schema[most] ?? ""}${unit}`);
  }
  return make("span", { className: "quiet" }, said.join(","), schema.pattern ? " " : "",
    schema.pattern ? code(schema.pattern) : "");
}

function table(heads, rows) {
  const head = make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text))));
  const body = make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell)))));
  return make("div", { className: "scrolled" }, make("table", {}, head, body));
}

/** A schema by its fields, or in one line where it has none. */
function fieldsOf(schema) {
  if (!schema.properties) return make("p", {}, shape(schema));
  const needed = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties).map(([name, of]) => {
    const preset = of.default === undefined || of.default === null ? "" : `, else ${JSON.stringify(of.default)}`;
    return [code(name), shape(of), needed.has(name) ? "always" : `may be left out${preset}`];
  });
  const said = schema.description ? make("p", {}, prose(schema.description)) : null;
  if (!rows.length) return make("div", {}, said, make("p", { className: "quiet" }, "no fields of its own"));
  return make("div", {}, said, table(["field", "takes", ""], rows));
}

function titled(title, ...content) {
  return [make("h4", {}, title), ...content];
}

function folded(id, head, ...content) {
  return make("details", { id }, make("summary", {}, ...head), make("div", { className: "inside" }, ...content));
}

// ------------------------------------------------------------------------------------------------ HTTP

function bodyOf(content) {
  return Object.entries(content ?? {}).flatMap(([media, { schema }]) => [
    make("p", {}, code(media)),
    ...(schema ? [fieldsOf(schema)] : []),
  ]);
}

function operation(path, method, said) {
  const inside = [];
  if (said.description) inside.push(make("p", {}, prose(said.description)));
  if (said.parameters) {
    const rows = said.parameters.map((one) => [
      code(one.name), one.in, shape(one.schema), one.required ? "always" : "may be left out", one.description ?? "",
    ]);
    inside.push(...titled("Parameters", table(["name", "in", "takes", "", ""], rows)));
  }
  if (said.requestBody) inside.push(...titled("Body", ...bodyOf(said.requestBody.content)));
  for (const [status, answer] of Object.entries(said.responses)) {
    inside.push(...titled(`Answer ${status}`, make("p", {}, prose(answer.description)), ...bodyOf(answer.content)));
  }
  const head = [make("span", { className: "method" }, method.toUpperCase()), code(path), ` ${said.summary}`];
  return folded(`operation-${said.operationId}`, head, ...inside);
}

function showHttp(document_) {
  const section = document.getElementById("http");
  section.append(make("p", {}, prose(document_.info.description)));
  for (const tag of document_.tags) {
    section.append(make("h3", { id: `group-${tag.name}` }, tag.name), make("p", {}, tag.description));
    for (const [path, item] of Object.entries(document_.paths)) {
      for (const method of METHODS) {
        if (item[method]?.tags[0] === tag.name) section.append(operation(path, method, item[method]));
      }
    }
  }
  section.hidden = false;
}

// ------------------------------------------------------------------------------------------------ WebSocket

function showWebSocket(document_) {
  const section = document.getElementById("websocket");
  const { messages } = document_.components;
  const frame = ({ $ref }) => {
    const message = messages[nameOf($ref)];
    return [make("p", {}, code(message.name)), fieldsOf(message.payload)];
  };
  const channel = document_.channels.ws;
  section.append(
    make("p", {}, prose(document_.info.description)),
    make("p", {}, "At ", code(channel.address), ". ", prose(channel.description)),
    make("h3", { id: "group-commands" }, "commands"),
  );
  const said = [];
  for (const [name, one] of Object.entries(document_.operations)) {
    if (one.action !== "receive") {
      said.push([name, one]);
      continue;
    }
    // `error` is described once.
    const replies = one.reply.messages.filter(({ $ref }) => nameOf($ref) !== "frame.error");
    section.append(folded(`command-${name}`, [code(name)],
      ...titled("Command", ...one.messages.flatMap(frame)),
      ...titled("Answer", ...(replies.length ? replies.flatMap(frame) : [make("p", {}, "none")]))));
  }
  for (const [name, one] of said) {
    section.append(make("h3", { id: `group-${name}` }, name.replace("_", " ")), make("p", {}, one.summary));
    for (const message of one.messages) {
      section.append(folded(nameOf(message.$ref), [code(messages[nameOf(message.$ref)].name)], ...frame(message)));
    }
  }
  section.hidden = false;
}

function showErrors(codes) {
  const section = document.getElementById("errors");
  const rows = Object.entries(codes).map(([name, fault]) =>
    [code(name), String(fault.http_status), String(fault.close_code ?? ""), fault.retryable ? "yes" : "no"]);
  section.append(table(["code", "HTTP status", "close code", "worth trying again"], rows));
  section.hidden = false;
}

function showTypes(schemas) {
  const section = document.getElementById("types");
  for (const name of Object.keys(schemas).sort()) {
    section.append(folded(`type-${name}`, [code(name)], fieldsOf(schemas[name])));
  }
  section.hidden = false;
}

function showContents() {
  const links = [...document.querySelectorAll("main section h2, main section h3")].map((heading) =>
    make("li", {}, make("a", { href: `#${heading.id}` }, heading.textContent)));
  document.getElementById("contents").append(make("ul", {}, ...links));
}

/** Open what the address names: a fold that is closed cannot be seen. */
function reveal() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) named.open = true;
  named?.scrollIntoView();
}

async function read(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return answer.json();
}

const state = document.getElementById("state");
try {
  const [http, websocket] = await Promise.all([read("openapi.json"), read("asyncapi.json")]);
  showHttp(http);
  showWebSocket(websocket);
  showErrors(websocket["x-error-codes"]);
  showTypes({ ...websocket.components.schemas, ...http.components.schemas });
  showContents();
  state.textContent = `Everstream ${http.info.version}`;
  addEventListener("hashchange", reveal);
  reveal();
} catch (error) {
  state.textContent = `The description could not be loaded (${error.message}): reload the page.`;
}
