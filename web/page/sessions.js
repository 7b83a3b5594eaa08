// The list of sessions, newest first, a page at a time; on a narrow screen it is a drawer.
//
// Entries are links to "#s_…": opening one is a change of the address, so that going back, a bookmark and a link that was
// sent to somebody are the same thing.

import { button, element } from "./text.js";

const PAGE = 50;

export class SessionList {
  #list = document.getElementById("sessions");
  #more = document.getElementById("more-sessions");
  #drawer = document.getElementById("drawer");
  #toggle = document.getElementById("show-drawer");
  #ask;
  #onDelete;
  #sessions = [];
  #current = null;
  #asked = 0;
  #next = null;

  /** `ask(command)` gives a promise of the reply; `onDelete(session)` is called when its button is pressed. */
  constructor({ ask, onDelete }) {
    this.#ask = ask;
    this.#onDelete = onDelete;
    this.#more.addEventListener("click", () => this.load(this.#next));
    this.#toggle.addEventListener("click", () => this.showDrawer(!this.isDrawerShown));
    document.getElementById("hide-drawer").addEventListener("click", () => this.showDrawer(false));
    document.getElementById("shade").addEventListener("click", () => this.showDrawer(false));
    this.#list.addEventListener("click", (event) => {
      if (event.target.closest("a")) this.showDrawer(false);
    });
  }

  /** Load the newest ones, or those that follow `before`.  What is shown stays until they are here. */
  async load(before = null) {
    const asked = ++this.#asked;
    try {
      const { sessions, next } = await this.#ask({ type: "session.list", limit: PAGE, ...(before !== null && { before }) });
      if (asked !== this.#asked) return;
      const known = new Set(sessions.map(({ session }) => session));
      const kept = before === null ? [] : this.#sessions.filter(({ session }) => !known.has(session));
      this.#sessions = [...kept, ...sessions];
      this.#next = next ?? null;
      this.#show();
    } catch (error) {
      if (error.code !== "connection.lost") this.#list.replaceChildren(element("li", "failure", error.message));
    }
  }

  /** Nothing is known of them any more: somebody else is here. */
  clear() {
    this.#sessions = [];
    this.#next = null;
    this.#show();
  }

  /** Mark the open one, under the title that it has now. */
  mark(session) {
    const known = this.#sessions.find((listed) => listed.session === session?.id);
    if (known && session.opened) known.title = session.title;
    else if (this.#current === (session?.id ?? null)) return;
    this.#current = session?.id ?? null;
    this.#show();
  }

  get isDrawerShown() {
    return this.#toggle.getAttribute("aria-expanded") === "true";
  }

  /** On a narrow screen; on a wide one it is always there. */
  showDrawer(shown) {
    if (shown === this.isDrawerShown) return;
    this.#toggle.setAttribute("aria-expanded", String(shown));
    this.#drawer.classList.toggle("open", shown);
    document.getElementById("shade").hidden = !shown;
    if (shown) document.getElementById("hide-drawer").focus();
    else if (this.#drawer.contains(document.activeElement)) this.#toggle.focus();
  }

  #show() {
    const lines = this.#sessions.map((listed) => {
      const { session, title, role, members } = listed;
      const line = element("li", "");
      line.dataset.session = session;
      const link = element("a", "", title || "Untitled");
      link.href = `#${session}`;
      if (members > 1) link.append(element("span", "count", ` ${members} people`));
      if (session === this.#current) link.setAttribute("aria-current", "page");
      line.append(link);
      if (role === "owner") {
        const remove = button("quiet delete", "×", () => this.#onDelete(listed));
        remove.setAttribute("aria-label", `Delete ${title || "this chat"}`);
        line.append(remove);
      }
      return line;
    });
    const same =
      lines.length === this.#list.childElementCount &&
      lines.every((line, place) => line.isEqualNode(this.#list.children[place]));
    if (!same) this.#list.replaceChildren(...lines);
    this.#more.hidden = this.#next === null;
  }
}
