// What the page's head says of the open session: its title, who is here, and who is typing.

import { element } from "./text.js";

const $ = (id) => document.getElementById(id);

/** `session` or null for a new one; `typing` are the ids of those who type. */
export function showTop(session, typing) {
  $("title").textContent = session === null ? "New chat" : session.title || "Untitled";
  document.title = session?.title ? `${session.title} – Everstream` : "Everstream";
  const users = session?.users ?? [];
  const devices = users.reduce((sum, { connections }) => sum + connections, 0);
  $("presence").hidden = session === null || (session.members.length < 2 && devices < 2);
  const people = users.map(({ id, name, connections }) => {
    const chip = element("li", "", `${name || id}${connections > 1 ? ` ×${connections}` : ""}`);
    chip.title = connections > 1 ? `${id}, on ${connections} devices` : id;
    return chip;
  });
  $("presence").replaceChildren(...people);
  const verb = typing.length > 1 ? "are" : "is";
  $("typing").textContent = typing.length ? `${typing.join(", ")} ${verb} typing …` : "";
}
