// Text that is no Markdown: thinking, a refusal, what a tool is given.
//
// A browser lays out a whole block when its text grows, so a long text is a row of blocks, each ended at a line's end.

import type { JSX } from "preact";

import { Leaf } from "./leaf.tsx";

const BLOCK_CHARACTERS = 2_000;

/** The places at which the blocks of a growing text end: those of a shorter text are the first ones. */
export function blockEnds(text: string): number[] {
  const ends: number[] = [];
  for (let from = 0; ; ) {
    const end = text.indexOf("\n", from + BLOCK_CHARACTERS) + 1;
    if (end === 0 || end >= text.length) return [...ends, text.length];
    ends.push(end);
    from = end;
  }
}

export function Plain({ text }: { text: string }): JSX.Element {
  const ends = blockEnds(text);
  return (
    <>
      {ends.map((end, place) => (
        <div key={place} class="lines">
          <Leaf text={text.slice(ends[place - 1] ?? 0, end)} />
        </div>
      ))}
    </>
  );
}
