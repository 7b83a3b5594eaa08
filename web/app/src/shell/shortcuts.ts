// What keys do wherever the focus is.

import { useEffect } from "preact/hooks";

import type { Page } from "../state/page.ts";

const APPLE = /Mac|iPhone|iPad/.test(navigator.userAgent);
const MOD = APPLE ? "⌘" : "Ctrl";

/** Where the list of chats is a drawer. */
export const NARROW = "(max-width: 47.99rem)";

/** As the help lists them. */
export const KEYS: readonly { keys: readonly string[]; what: string }[] = [
  { keys: ["Enter"], what: "Send (see Settings)" },
  { keys: ["Shift", "Enter"], what: "New line" },
  { keys: ["Esc"], what: "Stop the answer, close what is open" },
  { keys: ["/"], what: "Go to the prompt" },
  { keys: [MOD, "K"], what: "Search the chats" },
  { keys: [MOD, "Shift", "O"], what: "New chat" },
  { keys: ["?"], what: "This list" },
];

export function focusOn(id: string): void {
  document.getElementById(id)?.focus();
}

export function useShortcuts(page: Page): void {
  useEffect(() => {
    const pressed = (event: KeyboardEvent): void => {
      if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
      if (act(page, event)) event.preventDefault();
    };
    document.addEventListener("keydown", pressed);
    return () => document.removeEventListener("keydown", pressed);
  }, [page]);
}

/** Whether the key meant something. */
function act(page: Page, event: KeyboardEvent): boolean {
  const { key } = event;
  const mod = (APPLE ? event.metaKey : event.ctrlKey) && !event.altKey;
  if (key === "Escape") return escape(page);
  if (mod && event.shiftKey && key.toLowerCase() === "o") {
    page.newChat();
    focusOn("prompt");
    return true;
  }
  if (mod && !event.shiftKey && key.toLowerCase() === "k") {
    if (matchMedia(NARROW).matches) page.show({ drawer: true });
    // What is in a drawer can be focused when it is drawn.
    requestAnimationFrame(() => requestAnimationFrame(() => focusOn("search")));
    return true;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || isWriting(event.target)) return false;
  if (key === "?") page.show({ dialog: "help" });
  else if (key === "/") focusOn("prompt");
  else return false;
  return true;
}

function escape(page: Page): boolean {
  if (document.querySelector("[popover]:popover-open")) return false; // it closes by itself
  if (page.drawer) page.show({ drawer: false });
  else if (page.busy && !page.comparing) page.stop();
  else return false;
  return true;
}

function isWriting(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || target.matches("input, textarea, select"));
}
