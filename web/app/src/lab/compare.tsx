// One prompt to two models, side by side.
//
// The view only draws: what is asked, held and measured is the comparison's (comparison.ts).  It stands in place of the
// chat, and what is under way there goes on when it is closed.

import type { Client, Model } from "@everstream/client";
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { useChanges } from "../state/changes.ts";
import { comparisonOf } from "./comparison.ts";
import type { Comparison } from "./comparison.ts";
import { Results } from "./results.tsx";
import { SideView } from "./side_view.tsx";
import "../styles/lab.css";

const TICK_MS = 250; // how often the running time is shown anew while nothing else changes

export interface CompareProps {
  client: Client;
  models: readonly Model[];
  display: "raw" | "smooth";
  onClose: () => void;
}

export function Compare({ client, models, display, onClose }: CompareProps): JSX.Element {
  const comparison = comparisonOf(client, firstModels(models));
  useChanges((changed) => comparison.on(changed), [comparison]);
  useTicks(comparison);
  useEscape(comparison);
  offer(comparison, models);
  const now = performance.now();
  const smooth = display === "smooth";
  const [left, right] = comparison.sides;
  const { live } = comparison;
  return (
    <section class="compare" id="compare" aria-labelledby="compare-title">
      <header class="lab-head">
        <h2 id="compare-title">Compare</h2>
        <p class="hint">One prompt to two models. Nothing of it is kept on the server.</p>
        <button class="plain" id="compare-swap" onClick={() => comparison.swap()}>
          Swap
        </button>
        <button class="plain" id="compare-anew" disabled={left.last === null} onClick={() => comparison.beginAnew()}>
          Begin anew
        </button>
        <button class="plain" id="compare-close" onClick={onClose}>
          Close
        </button>
      </header>
      <div class="compare-body">
        <div class="compare-sides">
          <SideView key={left.id} side={left} place="left" models={models} now={now} smooth={smooth} />
          <SideView key={right.id} side={right} place="right" models={models} now={now} smooth={smooth} />
        </div>
        <Results comparison={comparison} runs={comparison.runs} />
      </div>
      <Asking comparison={comparison} live={live} />
    </section>
  );
}

function Asking({ comparison, live }: { comparison: Comparison; live: boolean }): JSX.Element {
  const prompt = useRef<HTMLTextAreaElement>(null);
  useEffect(() => prompt.current?.focus(), []);
  const ask = (event: Event): void => {
    event.preventDefault();
    const field = prompt.current as HTMLTextAreaElement;
    if (comparison.ask(field.value)) field.value = "";
  };
  const keyed = (event: KeyboardEvent): void => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) ask(event);
  };
  const asked = comparison.exchanges !== null;
  return (
    <form class="compare-asking" onSubmit={ask}>
      <textarea
        id="compare-prompt"
        ref={prompt}
        rows={1}
        aria-label="Prompt for both"
        placeholder={asked ? "Ask both something further" : "Ask both"}
        onKeyDown={keyed}
      />
      <div class="compare-row">
        <button type="submit" id="compare-ask" disabled={live}>
          Ask both
        </button>
        <button
          type="button"
          class="plain"
          id="compare-again"
          hidden={live || !asked}
          onClick={() => comparison.again()}
        >
          Run again
        </button>
        <button type="button" class="stop" id="compare-stop" hidden={!live} onClick={() => comparison.stop()}>
          Stop both
        </button>
      </div>
    </form>
  );
}

/** Two different models where there are two. */
function firstModels(models: readonly Model[]): [string, string] {
  const usable = models.filter((model) => model.usable).map(({ id }) => id);
  const first = usable[0] ?? "";
  return [first, usable[1] ?? first];
}

/** The list of models may come later than the view. */
function offer(comparison: Comparison, models: readonly Model[]): void {
  const [first, second] = firstModels(models);
  const [left, right] = comparison.sides;
  if (left.model === "") left.model = first;
  if (right.model === "") right.model = second;
}

/** The time goes on while nothing comes. */
function useTicks(comparison: Comparison): void {
  const [, tick] = useState(0);
  const { live } = comparison;
  useEffect(() => {
    if (!live) return undefined;
    const timer = setInterval(() => tick((count) => count + 1), TICK_MS);
    return () => clearInterval(timer);
  }, [live]);
}

/** Escape stops both, wherever the focus is, unless something that lies over the page is closed by it. */
function useEscape(comparison: Comparison): void {
  useEffect(() => {
    const pressed = (event: KeyboardEvent): void => {
      if (event.key !== "Escape" || event.defaultPrevented || !comparison.live) return;
      if (document.querySelector("dialog[open], [popover]:popover-open")) return;
      event.preventDefault();
      comparison.stop();
    };
    document.addEventListener("keydown", pressed);
    return () => document.removeEventListener("keydown", pressed);
  }, [comparison]);
}
