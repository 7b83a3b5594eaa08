// Markdown as it grows: closed blocks are drawn once and left alone, however often this is drawn again.
//
// A vnode that is the same object as before is not looked at by Preact.  So what is closed keeps its vnode, and a frame of the
// screen costs what is open and little more.  A block that is closed stays where it is among its siblings, under the same key:
// its elements are those that it had while it was open, and what is selected in them stays selected.

import type { JSX, VNode } from "preact";
import { useState } from "preact/hooks";

import { Growing } from "./blocks.ts";
import { drawBlock } from "./render.tsx";
import type { Drawing } from "./render.tsx";
import { markSeams, SeamMark } from "./seams.tsx";
import type { Seam } from "./seams.tsx";

const NONE: readonly Seam[] = [];

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

  constructor(grows: boolean) {
    this.#to = { seams: NONE, grows };
  }

  draw(text: string, live: boolean, seams: readonly Seam[]): VNode[] {
    if (this.#shown?.text === text && this.#shown.live === live) return this.#views;
    this.#shown = { text, live };
    this.#to.seams = seams;
    this.#growing.show(text, live);
    const { closed, opened } = this.#growing;
    const drawn = closed.map((block) => (block.view ??= drawBlock(block, this.#to)) as VNode);
    this.#views = [...drawn, ...opened.map((block) => drawBlock(block, this.#to))];
    return this.#views;
  }
}

export function Markdown({ text, live, seams = NONE }: Props): JSX.Element {
  const [sheet] = useState(() => new Sheet(live));
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
