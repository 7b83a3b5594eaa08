// How much of a text is drawn by now: all of it, or, where it is to appear smoothly, what is due at this frame.
//
// A very long text that is there at once (a saved answer, a reload) is drawn in several frames too: one task that drew
// it all would hold up everything else.

import { useEffect, useRef, useState } from "preact/hooks";

import { newPace, paced, wordEnd } from "./smooth.ts";
import type { Pace } from "./smooth.ts";

const AT_ONCE = 8_000; // characters that a frame may draw at most

interface Held {
  revision: string;
  pace: Pace;
  shown: number;
}

/**
 * How much of `text` is to be drawn.  `smooth` while it is `live` and for a moment after; what is there at first is
 * drawn at once.  With another `revision` it is another text.
 */
export function useShown(text: string, live: boolean, smooth: boolean, revision = ""): number {
  const [, draw] = useState(0);
  const held = useRef<Held | null>(null);
  if (held.current?.revision !== revision || text.length < held.current.shown) {
    held.current = { revision, pace: newPace(text.length, performance.now()), shown: 0 };
  }
  const now = held.current;
  step(now, text, live, smooth && !prefersCalm());
  const behind = now.shown < text.length;
  useEffect(() => {
    if (!behind) return;
    const frame = requestAnimationFrame(() => draw((count) => count + 1));
    return () => cancelAnimationFrame(frame);
  });
  return now.shown;
}

function step(held: Held, text: string, live: boolean, smooth: boolean): void {
  const before = held.shown;
  held.pace = paced(held.pace, text.length, !live, performance.now());
  const due = smooth ? wordEnd(text, held.pace.shown) : text.length;
  if (!smooth) held.pace = newPace(text.length, held.pace.at);
  held.shown = Math.max(before, Math.min(due, wordEnd(text, before + AT_ONCE)));
}

let calm: MediaQueryList | null = null;

function prefersCalm(): boolean {
  calm ??= matchMedia("(prefers-reduced-motion: reduce)");
  return calm.matches;
}
