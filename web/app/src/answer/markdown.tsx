// Markdown as it grows: closed blocks are drawn once and left alone, however often this is drawn again.
//
// What is closed is the same object as before, and so is not drawn again (`Once`): a frame of the screen costs what is
// open and little more.  A block that is closed stays where it is among its siblings, under
// the same key: its elements are those that it had while it was open, and what is selected in them stays selected.

import type { JSX, VNode } from "preact";
import { useEffect, useState } from "preact/hooks";

import { Growing } from "./blocks.ts";
import { Once } from "./once.tsx";
import { drawBlock } from "./render.tsx";
import type { Drawing } from "./render.tsx";
import { markSeams, SeamMark } from "./seams.tsx";
import type { Seam } from "./seams.tsx";

const NONE: readonly Seam[] = [];
const QUICK_MS = 6; // a text that takes longer to read is read less often than once a frame
const CHECK_AFTER_MS = 50;
const REST = 3; // times as long as the reading took, nothing is read then

interface Props {
  text: string;
  /** Whether it will go on. */
  live: boolean;
  seams?: readonly Seam[] | undefined;
}

/** What is kept from one drawing to the next. */
class Sheet {
  readonly #growing = new Growing();
  readonly #to: Drawing;
  #shown: { text: string; live: boolean } | null = null;
  #views: VNode[] = [];
  #restsUntil = 0;
  #grew = false;

  constructor(grows: boolean) {
    this.#to = { seams: NONE, grows };
  }

  draw(text: string, live: boolean, seams: readonly Seam[]): VNode[] {
    if (this.#shown?.text === text && this.#shown.live === live) return this.#views;
    const began = performance.now();
    if (live && began < this.#restsUntil) return this.#views;
    this.#shown = { text, live };
    this.#to.seams = seams;
    this.#growing.show(text, live);
    this.#grew ||= live;
    this.#views = this.#drawn();
    const tookMs = performance.now() - began;
    this.#restsUntil = tookMs > QUICK_MS ? began + tookMs * (1 + REST) : 0;
    return this.#views;
  }

  /** The text has ended: it is looked at as a whole once more, where it came in parts.  True: something differs. */
  check(): boolean {
    if (this.#shown === null || this.#shown.live || !this.#grew) return false;
    this.#grew = false;
    if (!this.#growing.check(this.#shown.text)) return false;
    this.#views = this.#drawn();
    return true;
  }

  #drawn(): VNode[] {
    const { closed, opened } = this.#growing;
    return [...closed, ...opened].map((block) => (
      <Once key={block.key} of={block} draw={() => drawBlock(block, this.#to)} />
    ));
  }
}

export function Markdown({ text, live, seams = NONE }: Props): JSX.Element {
  const [sheet] = useState(() => new Sheet(live));
  const [, draw] = useState(0);
  useEffect(() => {
    if (live) return;
    // A task of its own: the end of an answer has enough to draw.
    const timer = setTimeout(() => sheet.check() && draw((count) => count + 1), CHECK_AFTER_MS);
    return () => clearTimeout(timer);
  }, [live, text, sheet]);
  const marked = markSeams(text, seams, live);
  const drawMarks = (numbers: readonly number[]): (JSX.Element | null)[] => {
    return numbers.map((number) => {
      const seam = seams[number];
      return seam === undefined ? null : <SeamMark key={`seam ${number}`} seam={seam} />;
    });
  };
  return (
    <>
      {drawMarks(marked.before)}
      {sheet.draw(marked.text, live, seams)}
      {drawMarks(marked.behind)}
    </>
  );
}
