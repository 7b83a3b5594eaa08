// "2 / 3", with a button to each side, where a message has others beside it.
//
// The next version is another node, with a view of its own: the one that had the focus is gone with its branch.  So who
// has gone there by a button goes on at the same button of the new view.

import type { PathItem } from "@everstream/client";
import type { JSX } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";

let went: { key: string; by: number } | null = null; // where the reader has just gone, and which way

interface Props {
  item: PathItem;
  choose: (above: string, key: string) => void;
}

export function Branches({ item, choose }: Props): JSX.Element {
  const { node, siblings, place } = item;
  const root = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    if (went?.key !== node.key || root.current === null) return;
    const [before, after] = root.current.querySelectorAll("button");
    const [wanted, other] = went.by < 0 ? [before, after] : [after, before];
    (wanted?.disabled ? other : wanted)?.focus();
    went = null;
  });
  const step = (by: number): void => {
    const to = siblings[place + by];
    if (to === undefined) return;
    went = { key: to.key, by };
    choose(node.above, to.key);
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    const by = event.key === "ArrowLeft" ? -1 : event.key === "ArrowRight" ? 1 : 0;
    if (by === 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    step(by);
  };
  return (
    <div
      class="branches"
      role="group"
      aria-label="Versions"
      ref={root}
      hidden={siblings.length < 2}
      onKeyDown={onKeyDown}
    >
      <button type="button" class="quiet" aria-label="Previous version" disabled={place === 0} onClick={() => step(-1)}>
        ‹
      </button>
      <span>{`${place + 1} / ${siblings.length}`}</span>
      <button
        type="button"
        class="quiet"
        aria-label="Next version"
        disabled={place === siblings.length - 1}
        onClick={() => step(1)}
      >
        ›
      </button>
    </div>
  );
}
