// The page's head: what the open session is called, who is here, and how the connection stands.

import type { JSX } from "preact";
import { useEffect } from "preact/hooks";

import type { Page } from "../state/page.ts";
import { Icon } from "./icons.tsx";
import { Menu } from "./menu.tsx";

const CONNECTION_LABELS = {
  closed: "closed",
  connecting: "connecting",
  open: "connected",
  waiting: "reconnecting",
  refused: "refused",
} as const;

const TRANSPORT_TITLES = {
  websocket: "By a WebSocket",
  http: "Over HTTP: WebSockets do not come through here",
} as const;

export function Top({ page }: { page: Page }): JSX.Element {
  const { id, state } = page.session;
  const title = id === null ? "New chat" : state.title || "Untitled";
  useEffect(() => {
    document.title = id !== null && state.title ? `${state.title} – Everstream` : "Everstream";
  }, [id, state.title]);
  return (
    <header class="top">
      <h1 class="unseen">Everstream</h1>
      <button
        id="show-drawer"
        type="button"
        class="plain bare narrow"
        title="Chats"
        aria-expanded={page.drawer}
        aria-controls="drawer"
        onClick={() => page.show({ drawer: !page.drawer })}
      >
        <Icon name="chats" />
        <span class="unseen">Chats</span>
      </button>
      <h2 id="title" class="title" title={title}>
        {title}
      </h2>
      <Presence page={page} />
      <Connection page={page} />
      <button
        id="show-about"
        type="button"
        class="plain bare"
        title="People, title, export"
        hidden={id === null || state.role === null}
        onClick={() => page.show({ dialog: "about", aboutFailure: "" })}
      >
        <Icon name="people" />
        <span class="unseen">More</span>
      </button>
      <Menu page={page} />
    </header>
  );
}

function Presence({ page }: { page: Page }): JSX.Element {
  const { id, state } = page.session;
  const devices = state.users.reduce((sum, { connections }) => sum + connections, 0);
  const alone = id === null || (state.members.length < 2 && devices < 2);
  return (
    <ul id="presence" class="presence" aria-label="Who is here" hidden={alone}>
      {(id === null ? [] : state.users).map((user) => (
        <li key={user.id} title={user.connections > 1 ? `${user.id}, on ${user.connections} devices` : user.id}>
          {`${user.name || user.id}${user.connections > 1 ? ` ×${user.connections}` : ""}`}
        </li>
      ))}
    </ul>
  );
}

function Connection({ page }: { page: Page }): JSX.Element {
  const { state, transport, welcome } = page.client;
  const over = state === "open" && transport === "http" ? " over HTTP" : "";
  const node = welcome?.node ? `, to ${welcome.node}` : "";
  const title = state === "open" && transport ? `${TRANSPORT_TITLES[transport]}${node}` : "";
  return (
    <p
      id="connection"
      class="connection"
      role="status"
      data-state={state}
      data-transport={transport ?? ""}
      title={title}
    >
      {CONNECTION_LABELS[state] + over}
    </p>
  );
}
