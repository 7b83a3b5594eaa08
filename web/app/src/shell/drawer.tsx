// The list of sessions; on a narrow screen it is a drawer.
//
// Entries are links to "#s_…": opening one is a change of the address, so that going back, a bookmark and a link that
// was sent to somebody are the same thing.

import type { SessionInfo } from "@everstream/client";
import type { JSX } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { hashOf } from "../state/address.ts";
import type { Page } from "../state/page.ts";
import { Icon, Logo } from "./icons.tsx";
import { NARROW, focusOn } from "./shortcuts.ts";

export function Drawer({ page }: { page: Page }): JSX.Element {
  const drawer = useRef<HTMLElement>(null);
  const [wanted, setWanted] = useState("");
  const close = (): void => page.show({ drawer: false });
  useDrawerFocus(page, drawer);
  return (
    <>
      <aside id="drawer" ref={drawer} class={page.drawer ? "drawer open" : "drawer"} aria-label="Chats">
        <div class="drawer-head">
          <p class="brand">
            <Logo /> Everstream
          </p>
          <button id="hide-drawer" type="button" class="plain bare narrow" title="Close" onClick={close}>
            <Icon name="close" />
            <span class="unseen">Close</span>
          </button>
        </div>
        <button
          id="new-chat"
          type="button"
          class="plain new-chat"
          onClick={() => {
            page.newChat();
            focusOn("prompt");
          }}
        >
          <Icon name="plus" />
          New chat
        </button>
        <label class="search">
          <span class="unseen">Search your chats</span>
          <Icon name="search" />
          <input
            id="search"
            type="search"
            placeholder="Search"
            autocomplete="off"
            value={wanted}
            onInput={(event) => setWanted(event.currentTarget.value)}
          />
        </label>
        <SessionList page={page} wanted={wanted} />
      </aside>
      <div id="shade" class="shade" hidden={!page.drawer} onClick={close} />
    </>
  );
}

/** What had the focus may be gone with its entry. */
function refocus(): void {
  requestAnimationFrame(() => document.activeElement === document.body && focusOn("new-chat"));
}

/** While it is open it has the focus; closed, the button that opened it has it again. */
function useDrawerFocus(page: Page, drawer: { current: HTMLElement | null }): void {
  const was = useRef(page.drawer);
  useLayoutEffect(() => {
    if (was.current === page.drawer) return;
    was.current = page.drawer;
    if (page.drawer) focusOn("hide-drawer");
    else if (drawer.current?.contains(document.activeElement)) focusOn("show-drawer");
  }, [page.drawer]);
  useEffect(() => {
    const narrow = matchMedia(NARROW);
    const widened = (): void => {
      if (!narrow.matches) page.show({ drawer: false });
    };
    narrow.addEventListener("change", widened);
    return () => narrow.removeEventListener("change", widened);
  }, [page]);
}

function SessionList({ page, wanted }: { page: Page; wanted: string }): JSX.Element {
  const { list } = page;
  const found = list.found(wanted);
  return (
    <nav aria-label="Your chats">
      <ul id="sessions" class="sessions">
        {list.failure && <li class="failure">{list.failure}</li>}
        {found.map((listed) => (
          <Entry key={listed.session} page={page} listed={listed} />
        ))}
      </ul>
      {list.known && found.length === 0 && (
        <p class="none">{wanted.trim() ? "No chat is called that." : "What you ask is kept here."}</p>
      )}
      <button
        id="more-sessions"
        type="button"
        class="quiet"
        hidden={list.next === null}
        onClick={() => void list.load(list.next)}
      >
        More chats
      </button>
    </nav>
  );
}

function Entry({ page, listed }: { page: Page; listed: SessionInfo }): JSX.Element {
  const { session, title, members, role } = listed;
  const current = session === page.session.id && !page.comparing;
  return (
    <li data-session={session}>
      <a
        href={hashOf(session)}
        title={title || "Untitled"}
        {...(current && { "aria-current": "page" as const })}
        onClick={() => page.show({ drawer: false, comparing: false })}
      >
        {title || "Untitled"}
        {members > 1 && <span class="count"> {members} people</span>}
      </a>
      {role === "owner" && (
        <button
          type="button"
          class="quiet delete"
          title="Delete"
          aria-label={`Delete ${title || "this chat"}`}
          onClick={() => void page.delete(session, title).then(refocus)}
        >
          ×
        </button>
      )}
    </li>
  );
}
