// Word of changes, no more often than somebody can look.
//
// The first word goes on at once, and those that follow it within `everyMs` go on as one at its end.  A list that runs
// faster than it can be read is not read any better when it is drawn sixty times a second, but the page is slower.

export interface Paced {
  /** Something has changed. */
  note(): void;
  /** Say no more. */
  stop(): void;
}

export function paced(changed: () => void, everyMs: number): Paced {
  let timer: ReturnType<typeof setTimeout> | null = null;
  let waiting = false;
  const rest = (): void => {
    timer = null;
    if (!waiting) return;
    waiting = false;
    timer = setTimeout(rest, everyMs);
    changed();
  };
  return {
    note() {
      if (timer !== null) {
        waiting = true;
        return;
      }
      timer = setTimeout(rest, everyMs);
      changed();
    },
    stop() {
      if (timer !== null) clearTimeout(timer);
    },
  };
}
