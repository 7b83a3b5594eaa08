// The page's few pictures: drawn by lines in the colour of the text beside them, and silent for screen readers.

import type { JSX } from "preact";

const PATHS = {
  plus: "M10 4v12M4 10h12",
  close: "M5 5l10 10M15 5L5 15",
  chats: "M3 5h14M3 10h14M3 15h9",
  search: "M9 3.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11zM13 13l4 4",
  people:
    "M7.5 10a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM2 16.5c.4-3 2.6-4.5 5.5-4.5s5.1 1.5 5.5 4.5" +
    "M13 4.3a3 3 0 0 1 0 5.4M15 12.4c1.7.6 2.7 2 3 4.1",
  menu: "M10 4.5v.01M10 10v.01M10 15.5v.01",
  image: "M3.5 4h13v12h-13zM3.5 13l3.5-3.5 3.5 3.5 2-2 4 4M12.5 7.5v.01",
  send: "M10 16V4M5 9l5-5 5 5",
  down: "M10 4v12M5 11l5 5 5-5",
  copy: "M7 7h9.5v9.5H7zM4 13H3.5V3.5H13V4",
  download: "M10 3v9M6 8.5l4 4 4-4M3.5 16.5h13",
  link: "M8 12l4-4M8.5 6.5l2-2a3.2 3.2 0 0 1 4.8 4.6l-2 2M11.5 13.5l-2 2a3.2 3.2 0 0 1-4.8-4.6l2-2",
  compare: "M3.5 4h5.5v12H3.5zM11 4h5.5v12H11z",
  code: "M7 6l-4 4 4 4M13 6l4 4-4 4",
  settings: "M3 6h8M15 6h2M3 14h2M9 14h8M13 4v4M7 12v4",
  keyboard: "M2.5 5.5h15v9h-15zM5.5 8.5v.01M8.5 8.5v.01M11.5 8.5v.01M14.5 8.5v.01M6.5 11.5h7",
} as const;

export function Icon({ name }: { name: keyof typeof PATHS }): JSX.Element {
  return (
    <svg class="icon" viewBox="0 0 20 20" width="20" height="20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

/** Lines of an answer: one goes on behind a gap, and one is still being written. */
export function Logo(): JSX.Element {
  return (
    <svg class="logo" viewBox="0 0 32 32" width="26" height="26" aria-hidden="true" focusable="false">
      <rect width="32" height="32" rx="8" />
      <path d="M7 11h18M7 16.5h7M7 22h11" />
      <path d="M19 16.5h6" opacity=".6" />
      <circle cx="24" cy="22" r="2.2" />
    </svg>
  );
}
