// The menu in the page's head.  It is a popover: a click elsewhere and Escape close it, and focus goes back.

import type { JSX, TargetedKeyboardEvent } from "preact";
import { useRef } from "preact/hooks";

import type { Page } from "../state/page.ts";
import { Icon } from "./icons.tsx";
import { copyConversation, copyLink, download } from "./share.ts";

type Name = Parameters<typeof Icon>[0]["name"];

interface Item {
  id: string;
  icon: Name;
  text: string;
  act: () => void;
  pressed?: boolean;
}

function itemsOf(page: Page): Item[][] {
  const shared: Item[] = [
    { id: "copy-markdown", icon: "copy", text: "Copy as Markdown", act: () => void copyConversation(page) },
    { id: "download-markdown", icon: "download", text: "Download", act: () => void download(page, "markdown") },
    { id: "copy-link", icon: "link", text: "Copy link", act: () => void copyLink(page) },
  ];
  const { comparing, developing } = page;
  const tools: Item[] = [
    {
      id: "open-compare",
      icon: "compare",
      text: "Compare",
      pressed: comparing,
      act: () => page.show({ comparing: !comparing }),
    },
    {
      id: "open-developer",
      icon: "code",
      text: "Developer",
      pressed: developing,
      act: () => page.show({ developing: !developing }),
    },
  ];
  const own: Item[] = [
    { id: "open-settings", icon: "settings", text: "Settings", act: () => page.show({ dialog: "settings" }) },
    { id: "open-help", icon: "keyboard", text: "Keyboard shortcuts", act: () => page.show({ dialog: "help" }) },
  ];
  return [...(page.session.state.opened ? [shared] : []), tools, own];
}

export function Menu({ page }: { page: Page }): JSX.Element {
  const menu = useRef<HTMLDivElement>(null);
  const act = (item: Item): void => {
    menu.current?.hidePopover();
    item.act();
  };
  return (
    <>
      <button
        id="show-menu"
        type="button"
        class="plain bare"
        title="Menu"
        aria-haspopup="menu"
        popovertarget="menu"
        aria-controls="menu"
      >
        <Icon name="menu" />
        <span class="unseen">Menu</span>
      </button>
      <div
        id="menu"
        ref={menu}
        class="menu"
        popover="auto"
        role="menu"
        aria-label="Menu"
        onKeyDown={(event) => step(event)}
        onToggle={(event) => {
          if (event.newState === "open") menu.current?.querySelector<HTMLElement>("button")?.focus();
        }}
      >
        {itemsOf(page).map((group) => (
          <div key={group[0]?.id} class="menu-group" role="group">
            {group.map((item) => (
              <MenuItem key={item.id} item={item} onAct={() => act(item)} />
            ))}
          </div>
        ))}
      </div>
    </>
  );
}

function MenuItem({ item, onAct }: { item: Item; onAct: () => void }): JSX.Element {
  const checkable = item.pressed !== undefined && { role: "menuitemcheckbox" as const, "aria-checked": item.pressed };
  return (
    <button id={item.id} type="button" class="menu-item" role="menuitem" tabIndex={-1} {...checkable} onClick={onAct}>
      <Icon name={item.icon} />
      {item.text}
    </button>
  );
}

const STEPS: Record<string, (place: number, count: number) => number> = {
  ArrowDown: (place, count) => (place + 1) % count,
  ArrowUp: (place, count) => (place - 1 + count) % count,
  Home: () => 0,
  End: (_, count) => count - 1,
};

/** Arrows go from item to item; Tab leaves. */
function step(event: TargetedKeyboardEvent<HTMLDivElement>): void {
  const menu = event.currentTarget;
  if (event.key === "Tab") menu.hidePopover();
  const next = STEPS[event.key];
  if (next === undefined) return;
  event.preventDefault();
  const items = [...menu.querySelectorAll<HTMLElement>("button")];
  items[next(items.indexOf(document.activeElement as HTMLElement), items.length)]?.focus();
}
