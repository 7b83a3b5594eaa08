// The line of figures under an answer: how soon, how much, how fast, how it ended.

import type { Note, SessionMessage, StreamEnd, StreamState } from "@everstream/client";
import type { JSX } from "preact";
import { useRef } from "preact/hooks";

const END_LABELS: Record<string, string> = {
  cancelled: "stopped",
  interrupted: "interrupted: this is the part that was saved",
  failed: "failed",
  budget: "stopped: the budget is used up",
};
const FINISH_LABELS: Record<string, string> = {
  length: "cut at the most tokens",
  content_filter: "cut by the provider's content filter",
};

interface Props {
  stream: StreamState | null;
  message: SessionMessage | null;
  live: boolean;
  stopping: boolean;
  note: Note;
  /** Who stopped it, where that was somebody else. */
  by: string;
  model: string;
  /** Pieces a second, or null. */
  rate: number | null;
}

export function Figures({ stream, message, live, stopping, note, by, model, rate }: Props): JSX.Element {
  const since = useRef(performance.now());
  const end = stream?.end ?? null;
  const ttftMs = end?.metrics.ttft_ms ?? stream?.ttft_ms ?? null;
  const perSecond = end === null ? (live ? rate : null) : end.metrics.tokens_per_s;
  const figures: Record<string, string> = {
    end: live ? (stopping ? "stopping …" : "") : endLabel(message?.reason ?? end?.reason, end, by),
    waiting: live && ttftMs === null ? `waiting ${seconds(performance.now() - since.current)}` : "",
    ttft: ttftMs === null ? "" : `first token ${seconds(ttftMs)}`,
    tokens: tokensLabel(stream, end),
    rate: perSecond === null ? "" : `${rounded(perSecond)} tokens/s`,
    total: end === null ? "" : seconds(end.metrics.total_ms),
    cost: costLabel(end),
    model,
    "left-out": leftOutLabel(note.left_out),
  };
  for (const warning of end?.warnings ?? []) figures[`warning ${warning}`] = warning;
  return (
    <p class="figures">
      {Object.entries(figures).map(([name, text]) => (
        <span key={name} class="figure" data-figure={name} hidden={text === ""}>
          {text}
        </span>
      ))}
    </p>
  );
}

function tokensLabel(stream: StreamState | null, end: StreamEnd | null): string {
  if (end !== null) {
    const { input_tokens, output_tokens, source } = end.usage;
    return `${source === "estimated" ? "≈ " : ""}${input_tokens} in, ${output_tokens} tokens`;
  }
  return stream?.pieces ? `≈ ${stream.pieces} tokens` : "";
}

function costLabel(end: StreamEnd | null): string {
  if (!end?.cost) return "";
  return `${Number(end.cost.total.toPrecision(2))} ${end.cost.currency ?? "USD"}`;
}

function leftOutLabel(count: number | undefined): string {
  if (!count) return "";
  return `${count} earlier ${count === 1 ? "message was" : "messages were"} left out: the model's window is full`;
}

function endLabel(reason: string | null | undefined, end: StreamEnd | null, by: string): string {
  if (reason === "cancelled" && by) return `stopped by ${by}`;
  return END_LABELS[reason ?? ""] ?? FINISH_LABELS[end?.finish_reason ?? ""] ?? "";
}

export function seconds(ms: number): string {
  return ms < 1000 ? `${Math.max(0, Math.round(ms))} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function rounded(value: number): string {
  return value < 100 ? value.toFixed(1) : String(Math.round(value));
}
