// One question of a comparison and its answer.

import type { StreamState } from "@everstream/client";
import type { JSX } from "preact";

import { Markdown } from "../answer/markdown.tsx";
import { useShown } from "../answer/shown.ts";
import { duration, NOTHING, rounded } from "./runs.ts";
import type { SideFigures } from "./runs.ts";
import { figuresOf, isLive } from "./side.ts";
import type { Exchange } from "./side.ts";

export interface ExchangeProps {
  exchange: Exchange;
  /** The time its figures are of. */
  now: number;
  smooth: boolean;
}

export function ExchangeView({ exchange, now, smooth }: ExchangeProps): JSX.Element {
  const { state } = exchange.stream;
  const running = isLive(exchange);
  const shown = useShown(state.text, running, smooth, String(state.revision));
  // The end of an answer may still be on its way to the eye.
  const live = running || shown < state.text.length;
  const figures = figuresOf(exchange, now);
  const error = exchange.failure ?? state.end?.error?.message ?? null;
  return (
    <article class="exchange" data-state={live ? "running" : figures.outcome} aria-busy={live}>
      <p class="exchange-prompt">{exchange.prompt}</p>
      {state.thinking && (
        <details class="thinking">
          <summary>Thinking</summary>
          <div class="text">{state.thinking}</div>
        </details>
      )}
      <div class="exchange-answer">
        <AnswerText key={state.revision} state={state} shown={shown} grows={live} />
        {running && state.text === "" && <span class="caret" aria-hidden="true" />}
      </div>
      {state.refusal && <p class="refusal">{state.refusal}</p>}
      {state.tool_calls.map((call) => (
        <pre key={call.index} class="exchange-call">{`${call.name ?? "a tool"}(${call.arguments})`}</pre>
      ))}
      {error !== null && <p class="failure">{error}</p>}
      <FiguresLine figures={figures} stopping={running && exchange.stopping} />
    </article>
  );
}

interface AnswerTextProps {
  state: StreamState;
  shown: number;
  grows: boolean;
}

function AnswerText({ state: { text, seams }, shown, grows }: AnswerTextProps): JSX.Element | null {
  if (text === "" && seams.length === 0) return null;
  return (
    <div class="text answer">
      <Markdown text={text.slice(0, shown)} live={grows} seams={seams.filter(({ at }) => at <= shown)} />
    </div>
  );
}

function FiguresLine({ figures, stopping }: { figures: SideFigures; stopping: boolean }): JSX.Element {
  const { ttftMs, tokens, estimated, perSecond, cost, totalMs } = figures;
  const shown: [string, string | null][] = [
    ["end", stopping ? "stopping …" : figures.outcome === "cancelled" ? "stopped" : null],
    ["ttft", ttftMs === null ? null : `first token ${duration(ttftMs)}`],
    ["tokens", tokens === null ? null : `${estimated ? "≈ " : ""}${tokens} tokens`],
    ["rate", rounded(perSecond) === NOTHING ? null : `${rounded(perSecond)} tokens/s`],
    ["total", totalMs === null ? null : duration(totalMs)],
    ["cost", cost === null ? null : `${Number(cost.total.toPrecision(2))} ${cost.currency}`],
  ];
  return (
    <p class="figures">
      {shown.map(([name, text]) => (
        <span key={name} class="figure" data-figure={name} hidden={text === null}>
          {text}
        </span>
      ))}
    </p>
  );
}
