// What the model thought before it answered, folded away, and how long it took as far as it was seen here.

import type { JSX } from "preact";
import { useRef } from "preact/hooks";

import { Plain } from "./plain.tsx";

interface Props {
  text: string;
  /** Whether it thinks still. */
  thinks: boolean;
}

export function Thinking({ text, thinks }: Props): JSX.Element {
  // Only who saw it begin can say how long it took.
  const began = useRef(thinks ? performance.now() : null);
  const took = useRef<number | null>(null);
  if (!thinks && began.current !== null) took.current ??= performance.now() - began.current;
  return (
    <details class="thinking">
      <summary>{thinks ? thinksLabel(began.current) : tookLabel(took.current)}</summary>
      <div class="text">
        <Plain text={text} />
      </div>
    </details>
  );
}

function thinksLabel(began: number | null): string {
  const passed = began === null ? 0 : Math.floor((performance.now() - began) / 1000);
  return passed < 1 ? "Thinking …" : `Thinking … ${passed} s`;
}

function tookLabel(ms: number | null): string {
  if (ms === null) return "Thought";
  return ms < 1000 ? "Thought for a moment" : `Thought for ${Math.round(ms / 1000)} s`;
}
