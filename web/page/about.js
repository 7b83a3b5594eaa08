// The dialog about the open session: its title and system prompt, who is in it, taking it along.
//
// What a viewer's role forbids is not offered.  Fields are filled in when the dialog opens and not while it is open:
// nobody's writing is replaced under his hands; the list of people follows.

import { may } from "./session.js";
import { button, element } from "./text.js";

const ROLES = ["owner", "editor", "viewer"];
const TYPES = { json: "application/json", markdown: "text/markdown" };
const ENDINGS = { json: "json", markdown: "md" };

const $ = (id) => document.getElementById(id);

export class About {
  #dialog = $("about");
  #conversation;
  #onDelete;

  /** `onDelete(session)`: the session's owner wants it gone. */
  constructor({ conversation, onDelete }) {
    this.#conversation = conversation;
    this.#onDelete = onDelete;
    $("show-about").addEventListener("click", () => this.open());
    $("about-close").addEventListener("click", () => this.#dialog.close());
    $("about-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save();
    });
    $("add-member").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#add();
    });
    $("leave").addEventListener("click", () => this.#leave());
    $("delete").addEventListener("click", () => {
      const { id, title } = this.#conversation.session;
      this.#dialog.close();
      this.#onDelete({ session: id, title });
    });
    for (const format of ["markdown", "json"]) {
      $(`export-${format}`).addEventListener("click", () => this.#export(format));
    }
  }

  open() {
    const { session } = this.#conversation;
    $("about-title-field").value = session.title;
    $("about-system").value = session.system;
    $("about-failure").textContent = "";
    this.show();
    this.#dialog.showModal();
  }

  /** The session has changed, or another one is open. */
  show() {
    const { session } = this.#conversation;
    if (session === null || session.role === null) {
      if (this.#dialog.open) this.#dialog.close();
      return;
    }
    const mayUpdate = may(session, "update");
    const mayInvite = may(session, "members");
    for (const field of $("about-form").elements) field.disabled = !mayUpdate;
    $("about-save").hidden = !mayUpdate;
    $("add-member").hidden = !mayInvite;
    $("delete").hidden = !may(session, "delete");
    const owners = session.members.filter(({ role }) => role === "owner");
    $("leave").hidden = session.members.length < 2 || (session.role === "owner" && owners.length === 1);
    this.#showMembers(session, mayInvite, owners.length === 1);
  }

  #showMembers(session, mayInvite, oneOwner) {
    const lines = session.members.map(({ user, role }) => {
      const line = element("li", "");
      line.dataset.user = user;
      line.append(element("span", "member", user === session.me ? `${user} (you)` : user));
      const lastOwner = oneOwner && role === "owner";
      if (!mayInvite || lastOwner) {
        line.append(element("span", "role", role));
        return line;
      }
      const select = element("select", "");
      select.setAttribute("aria-label", `Role of ${user}`);
      select.append(...ROLES.map((name) => element("option", "", name)));
      select.value = role;
      select.addEventListener("change", async () => {
        if ((await this.#conversation.orders.addMember(user, select.value)) === null) select.value = role;
      });
      const remove = button("plain", "Remove", () => this.#conversation.orders.removeMember(user));
      remove.setAttribute("aria-label", `Remove ${user}`);
      line.append(select, remove);
      return line;
    });
    $("members").replaceChildren(...lines);
  }

  /** What goes wrong in here is said here: a dialog covers everything else. */
  fail(text) {
    if (this.#dialog.open) $("about-failure").textContent = text;
    return this.#dialog.open;
  }

  async #save() {
    const { session } = this.#conversation;
    const wanted = { title: $("about-title-field").value.trim(), system: $("about-system").value.trim() };
    const changed = Object.entries(wanted).filter(([name, value]) => value !== session[name]);
    if (changed.length && (await this.#conversation.orders.update(Object.fromEntries(changed))) === null) return;
    this.#dialog.close();
  }

  async #add() {
    const user = $("member-id").value.trim();
    if (user === "" || (await this.#conversation.orders.addMember(user, $("member-role").value)) === null) return;
    $("member-id").value = "";
    $("about-failure").textContent = "";
  }

  async #leave() {
    await this.#conversation.orders.removeMember(this.#conversation.session.me);
  }

  async #export(format) {
    const { title } = this.#conversation.session;
    // A text to read is of one path, the one that is looked at; the other kind has all branches.
    const shown = this.#conversation.path.findLast(({ node }) => node.message !== null);
    const message = format === "markdown" ? shown?.node.message.id : undefined;
    const reply = await this.#conversation.orders.exported(format, message);
    if (reply === null) return;
    const link = element("a", "");
    link.href = URL.createObjectURL(new Blob([reply.content], { type: TYPES[format] }));
    link.download = `${title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "chat"}.${ENDINGS[format]}`;
    link.click();
    URL.revokeObjectURL(link.href);
  }
}

/** Ask whether something is really to be done; a promise of the answer. */
export function confirmed(question, action) {
  const dialog = $("confirm");
  $("confirm-question").textContent = question;
  $("confirm-yes").textContent = action;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
