// Elements of the API page.  Texts are put into it as texts: what stands in `code` quotes in them is set as code, and
// nothing else.

export type Child = Node | string;

type Fields<Tag extends keyof HTMLElementTagNameMap> = Partial<Omit<HTMLElementTagNameMap[Tag], "style">>;

/** An element with what is in it; a text becomes text. */
export function make<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag, fields: Fields<Tag>, ...children: Child[]
): HTMLElementTagNameMap[Tag] {
  const element = Object.assign(document.createElement(tag), fields);
  element.append(...children);
  return element;
}

export const code = (text: string): HTMLElement => make("code", {}, text);

/** A text in which what is in `code` quotes is code. */
export function prose(text: string): HTMLElement {
  const parts = text.split("`");
  return make("span", {}, ...parts.map((part, at) => (at % 2 ? code(part) : part)));
}

export function joined(parts: readonly Child[], between: string): HTMLElement {
  return make("span", {}, ...parts.flatMap((part, at) => (at ? [between, part] : [part])));
}

export function table(heads: readonly string[], rows: readonly Child[][]): HTMLElement {
  const head = make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text))));
  const body = make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell)))));
  // What scrolls has to be reachable by the keyboard too.
  return make("div", { className: "scrolled", tabIndex: 0 }, make("table", {}, head, body));
}

export function titled(title: string, ...content: Child[]): Child[] {
  return [make("h4", {}, title), ...content];
}

export function folded(id: string, head: readonly Child[], ...content: Child[]): HTMLElement {
  return make("details", { id }, make("summary", {}, ...head), make("div", { className: "inside" }, ...content));
}
