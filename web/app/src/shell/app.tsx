// The frame of the page: the list of chats, the head, the conversation, the prompt, and what lies over them.

import type { JSX } from "preact";
import { useLayoutEffect, useState } from "preact/hooks";

import { useChanges } from "../state/changes.ts";
import type { Page } from "../state/page.ts";
import { About } from "./about.tsx";
import { Composer } from "./composer.tsx";
import { Confirm } from "./confirm.tsx";
import { Conversation, ToLatest } from "./conversation.tsx";
import { Drawer } from "./drawer.tsx";
import { HelpDialog } from "./help.tsx";
import { Lazily } from "./lazily.tsx";
import { NoticeLine } from "./notice.tsx";
import { SettingsDialog } from "./settings.tsx";
import { NARROW, focusOn, useShortcuts } from "./shortcuts.ts";
import { TokenDialog } from "./token.tsx";
import { Top } from "./top.tsx";

export function App({ page }: { page: Page }): JSX.Element {
  useChanges(page.on);
  useShortcuts(page);
  const [near, setNear] = useState(true);
  const { theme } = page.settings.chosen;
  const covered = page.drawer && matchMedia(NARROW).matches; // then the drawer alone can be reached
  useLayoutEffect(() => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  }, [theme]);
  const closeDialog = (): void => page.show({ dialog: null });
  return (
    <>
      <a
        class="skip"
        href="#prompt"
        inert={covered}
        onClick={(event) => {
          event.preventDefault(); // the address names the session
          focusOn("prompt");
        }}
      >
        Skip to the prompt
      </a>
      <Drawer page={page} />
      <div class="column" inert={covered}>
        <Top page={page} />
        {page.comparing && <Comparing page={page} />}
        <div class="conversation" hidden={page.comparing}>
          <Conversation page={page} onNear={setNear} />
          <footer class="bottom">
            <ToLatest page={page} near={near} />
            <p id="typing" class="typing" aria-live="off">
              {typingLine(page.session.typing)}
            </p>
            <NoticeLine page={page} />
            <Composer page={page} />
          </footer>
        </div>
      </div>
      {page.developing && <Developing page={page} inert={covered} />}
      <TokenDialog access={page.access} />
      <About page={page} />
      <Confirm page={page} />
      <SettingsDialog settings={page.settings} open={page.dialog === "settings"} onClose={closeDialog} />
      <HelpDialog open={page.dialog === "help"} onClose={closeDialog} />
      <div id="spoken" class="unseen" role="status" aria-live="polite">
        {page.spoken}
      </div>
    </>
  );
}

function typingLine(typing: readonly string[]): string {
  if (typing.length === 0) return "";
  return `${typing.join(", ")} ${typing.length > 1 ? "are" : "is"} typing …`;
}

function Comparing({ page }: { page: Page }): JSX.Element {
  const onClose = (): void => page.show({ comparing: false });
  const props = { client: page.client, models: page.models, display: page.settings.chosen.display, onClose };
  return (
    <main class="comparing">
      <Lazily
        load={async () => (await import("../lab/compare.tsx")).Compare}
        props={props}
        onFailed={() => failed(page, onClose)}
      />
    </main>
  );
}

function Developing({ page, inert }: { page: Page; inert: boolean }): JSX.Element {
  const onClose = (): void => page.show({ developing: false });
  const props = { client: page.client, session: page.session, onClose };
  return (
    <div class="developing" inert={inert}>
      <Lazily
        load={async () => (await import("../lab/developer.tsx")).Developer}
        props={props}
        onFailed={() => failed(page, onClose)}
      />
    </div>
  );
}

function failed(page: Page, close: () => void): void {
  close();
  page.notices.say("This part of the page does not work here. Reload the page, and try again.");
}
