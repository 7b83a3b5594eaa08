// When views are drawn anew: at most once a frame of the screen, however much has changed meanwhile.
//
// A token may come a hundred times a second, and a screen shows sixty frames.  So a change only marks the views that
// listen to it; the next frame draws all that are marked, together.  A tab that nobody sees has no frames: state goes
// on there, nothing is drawn, and what is there is drawn at once when somebody looks again.

import { useLayoutEffect, useState } from "preact/hooks";

/** Listen to changes: `changed` is called at each.  Gives what ends it. */
export type Subscribe = (changed: () => void) => () => void;

/** Something that changes, and tells whoever listens. */
export class Changes {
  readonly #listeners = new Set<() => void>();

  readonly on: Subscribe = (changed) => {
    // Its own function each time: who listens twice is told twice, and ends each of them by itself.
    const listener = (): void => changed();
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  tell(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}

const marked = new Set<() => void>();

function mark(draw: () => void): void {
  if (marked.size === 0) requestAnimationFrame(drawMarked);
  marked.add(draw);
}

/** Draw what is marked without waiting for the next frame: whoever presses a button sees at once what comes of it. */
export function drawMarked(): void {
  const draws = [...marked];
  marked.clear();
  for (const draw of draws) draw();
}

/**
 * Draw the calling component anew, at most once a frame, after `subscribe` has reported a change.  `subscribe` is
 * called again when `inputs` differ; without them, when it is another function (so give it a `useCallback`, or inputs).
 */
export function useChanges(subscribe: Subscribe, inputs: readonly unknown[] = [subscribe]): void {
  const [, count] = useState(0);
  useLayoutEffect(() => {
    const draw = (): void => count((before) => before + 1);
    const stop = subscribe(() => mark(draw));
    return () => {
      stop();
      marked.delete(draw);
    };
  }, inputs);
}
