// The line that is said to the reader, above the prompt.

import type { JSX } from "preact";

import type { Page } from "../state/page.ts";
import { Icon } from "./icons.tsx";

export function NoticeLine({ page }: { page: Page }): JSX.Element {
  const { now } = page.notices;
  return (
    <div id="notice" class="notice" role="alert" data-kind={now?.kind ?? "alarm"} hidden={now === null}>
      <p id="notice-text">{now?.text ?? ""}</p>
      <button id="notice-action" type="button" class="plain" hidden={!now?.action} onClick={() => now?.act()}>
        {now?.action ?? ""}
      </button>
      <button
        id="notice-close"
        type="button"
        class="plain bare"
        title="Dismiss"
        hidden={now === null || now.action !== ""}
        onClick={() => page.notices.clear()}
      >
        <Icon name="close" />
        <span class="unseen">Dismiss</span>
      </button>
    </div>
  );
}
