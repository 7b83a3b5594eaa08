// A block of code: its language, its text in pieces that grow only at the end, and in colours once those are there.
//
// Colours are a luxury: what makes them is loaded when the first block of code is seen, works when nothing else is to
// be done, and leaves alone what is very long.  A block that still grows is coloured now and then while it is short;
// what has come since is shown behind it without colours.

import type { ComponentChildren, JSX, VNode } from "preact";
import { useEffect, useState } from "preact/hooks";

import { CopyButton } from "./copy.tsx";
import { highlighted, isKnown } from "./highlight.tsx";
import { Leaf } from "./leaf.tsx";
import { SeamMark, pieces, unmarked } from "./seams.tsx";
import type { Seam } from "./seams.tsx";

const COLOURED_MOST = 24_000; // characters
const COLOURED_LIVE_MOST = 4_000;
const COLOURED_EVERY_MS = 400;

interface Props {
  lang: string;
  /** Its text: all pieces but the last one stay as they are. */
  texts: readonly string[];
  closed: boolean;
  seams: readonly Seam[];
}

interface Coloured {
  code: string;
  nodes: ComponentChildren;
}

export function Code({ lang, texts, closed, seams }: Props): JSX.Element {
  const [wraps, setWraps] = useState(false);
  const name = lang.split(/[\s,{:]/, 1)[0] ?? "";
  const coloured = useColours(texts, name, closed);
  const label = name === "" ? "Code" : `Code, ${name}`;
  return (
    <div class={wraps ? "code wraps" : "code"}>
      <div class="code-head">
        <span class="code-lang">{name}</span>
        <button type="button" class="quiet wrap" aria-pressed={wraps} onClick={() => setWraps(!wraps)}>
          Wrap
        </button>
        <CopyButton text={() => unmarked(texts.join(""))} what="Copy this code" />
      </div>
      <pre tabIndex={0} role="group" aria-label={label}>
        <code>{coloured === null ? texts.map((text, at) => lines(text, at, seams)) : withRest(coloured, texts)}</code>
      </pre>
    </div>
  );
}

function lines(text: string, place: number, seams: readonly Seam[]): VNode {
  const drawn = pieces(text).map((piece) => {
    const seam = typeof piece === "number" ? seams[piece] : undefined;
    if (seam !== undefined) return <SeamMark key={`seam ${piece}`} seam={seam} />;
    return typeof piece === "string" ? <Leaf text={piece} /> : null;
  });
  return (
    <span key={place} class="lines">
      {drawn}
    </span>
  );
}

function withRest({ code, nodes }: Coloured, texts: readonly string[]): ComponentChildren {
  return [
    <span key="coloured">{nodes}</span>,
    <Leaf key="rest" text={texts.join("").slice(code.length)} />,
  ];
}

/** The code in colours as far as they have been made; null: without. */
function useColours(texts: readonly string[], name: string, closed: boolean): Coloured | null {
  const [coloured, setColoured] = useState<Coloured | null>(null);
  const most = closed ? COLOURED_MOST : COLOURED_LIVE_MOST;
  const long = texts.reduce((length, text) => length + text.length, 0) > most;
  const code = long ? "" : texts.join("");
  const wanted = name !== "" && code !== "" && isKnown(name) && code === unmarked(code);
  const due = wanted && coloured?.code !== code;
  // While it grows the effect runs once for all that comes meanwhile: it looks at the text when its time has come.
  const latest = useLatest({ code, name });
  useEffect(() => {
    if (!due) return;
    let left = false;
    const colour = async (): Promise<void> => {
      const { code, name } = latest.now;
      const nodes = await highlighted(code, name);
      if (!left && nodes !== null) setColoured({ code, nodes });
    };
    const timer = setTimeout(() => void colour(), closed ? 0 : COLOURED_EVERY_MS);
    return () => {
      left = true;
      clearTimeout(timer);
    };
  }, [due, closed, coloured]);
  const fits = coloured !== null && wanted && code.startsWith(coloured.code);
  return fits ? coloured : null;
}

function useLatest<Value>(now: Value): { now: Value } {
  const [held] = useState({ now });
  held.now = now;
  return held;
}
