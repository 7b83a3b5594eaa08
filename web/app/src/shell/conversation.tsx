// The middle of the page: the conversation, or what stands there before there is one.

import type { JSX } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { Coming, Log } from "../answer/log.tsx";
import type { LogContext } from "../state/acts.ts";
import type { Page } from "../state/page.ts";
import { EndKeeper } from "./end.ts";
import { Icon } from "./icons.tsx";
import { focusOn } from "./shortcuts.ts";

const SUGGESTIONS = [
  "What makes a lighthouse visible so far out at sea?",
  "Write a short story about a letter that arrives a century late.",
  "Explain how TCP copes with lost packets, with a small table.",
];

export function Conversation({ page, onNear }: { page: Page; onNear: (near: boolean) => void }): JSX.Element {
  const scroller = useRef<HTMLElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const keeper = useRef<EndKeeper | null>(null);
  useLayoutEffect(() => {
    if (scroller.current === null || content.current === null) return;
    const made = new EndKeeper(scroller.current, content.current, onNear);
    keeper.current = made;
    const stop = page.onToEnd(() => made.goToEnd());
    return () => {
      stop();
      made.end();
    };
  }, [page]);
  const context = contextOf(page);
  return (
    <main id="scroller" ref={scroller} class="scroller" tabIndex={-1}>
      <div ref={content}>
        <WelcomeSection page={page} />
        <Earlier page={page} scroller={scroller} keeper={keeper} />
        <Log context={context} />
        <Coming context={context} />
      </div>
    </main>
  );
}

function contextOf(page: Page): LogContext {
  const { session } = page;
  return {
    session,
    acts: page.acts,
    maySend: session.id !== null && session.may("send"),
    mayApprove: session.id !== null && session.may("approve"),
    several: session.state.members.length > 1,
    display: page.settings.chosen.display,
    rateOf: (stream) => page.rateOf(stream),
  };
}

function WelcomeSection({ page }: { page: Page }): JSX.Element {
  return (
    <section id="welcome" class="welcome" aria-labelledby="welcome-title" hidden={!page.isNew}>
      <h2 id="welcome-title">Answers that do not break off</h2>
      <p>
        Ask something. While the answer streams, reload the page, go offline, or restart the server: it carries on from
        the very token where it was. <b>Stop</b> stops it, and keeps what was written.
      </p>
      <ul class="suggestions" aria-label="Suggestions">
        {SUGGESTIONS.map((text) => (
          <li key={text}>
            <button type="button" class="plain" onClick={() => page.say(text)}>
              {text}
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

interface EarlierProps {
  page: Page;
  scroller: { current: HTMLElement | null };
  keeper: { current: EndKeeper | null };
}

function Earlier({ page, scroller, keeper }: EarlierProps): JSX.Element {
  const [loading, setLoading] = useState(false);
  const mounted = useRef(true);
  useEffect(() => () => void (mounted.current = false), []);
  const load = async (): Promise<void> => {
    const first = document.getElementById("log")?.firstElementChild;
    const before = first?.getBoundingClientRect().top ?? 0;
    keeper.current?.stay();
    setLoading(true);
    await page.session.earlier();
    if (!mounted.current) return;
    setLoading(false);
    // What was first stays where it was seen, once the messages before it are drawn.
    await twoFrames();
    if (!first?.isConnected || scroller.current === null) return;
    scroller.current.scrollTop += first.getBoundingClientRect().top - before;
  };
  return (
    <button
      id="earlier"
      type="button"
      class="plain earlier"
      hidden={!page.session.state.more}
      disabled={loading}
      onClick={() => void load()}
    >
      Earlier messages
    </button>
  );
}

function twoFrames(): Promise<void> {
  return new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve())));
}

/** The foot's button that goes back to the end. */
export function ToLatest({ page, near }: { page: Page; near: boolean }): JSX.Element {
  return (
    <button
      id="to-latest"
      type="button"
      class="to-latest"
      hidden={near || page.isNew}
      onClick={(event) => {
        page.toEnd();
        if (event.detail === 0) focusOn("prompt"); // by a key: the button goes, and must not take the focus along
      }}
    >
      <Icon name="down" />
      Go to the latest text
    </button>
  );
}
