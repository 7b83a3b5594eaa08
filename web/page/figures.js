// The line of figures under an answer: how soon, how much, how fast, how it ended.

import { element } from "./text.js";

const END_LABELS = {
  cancelled: "stopped",
  interrupted: "interrupted: this is the part that was saved",
  failed: "failed",
  budget: "stopped: the budget is used up",
};
const FINISH_LABELS = { length: "cut at the most tokens", content_filter: "cut by the provider's content filter" };
const FIGURES = ["end", "waiting", "ttft", "tokens", "rate", "total", "cost", "left-out"]; // in the order shown

export class Figures {
  #cells = new Map();
  #since = Date.now();

  constructor() {
    this.root = element("p", "figures");
    for (const name of FIGURES) this.#set(name, "");
  }

  /** `stream` or null, as it stands; `rate` is pieces a second or null; `note` what the session says of the answer. */
  show({ stream, message, live, stopping, note, by }, rate) {
    const end = stream?.end ?? null;
    const ttftMs = end?.metrics.ttft_ms ?? stream?.ttft_ms ?? null;
    this.#set("waiting", live && ttftMs === null ? `waiting ${seconds(Date.now() - this.#since)}` : "");
    this.#set("ttft", ttftMs === null ? "" : `first token ${seconds(ttftMs)}`);
    this.#set("tokens", tokensLabel(stream, end));
    const perSecond = end === null ? (live ? rate : null) : end.metrics.tokens_per_s;
    this.#set("rate", perSecond === null ? "" : `${round(perSecond)} tokens/s`);
    this.#set("total", end === null ? "" : seconds(end.metrics.total_ms));
    this.#set("cost", end?.cost ? `${Number(end.cost.total.toPrecision(2))} ${end.cost.currency}` : "");
    this.#set("left-out", leftOutLabel(note.left_out));
    this.#set("end", live ? (stopping ? "stopping …" : "") : endLabel(message?.reason ?? end?.reason, end, by));
    for (const warning of end?.warnings ?? []) this.#set(`warning ${warning}`, warning);
  }

  #set(name, text) {
    let cell = this.#cells.get(name);
    if (cell === undefined) {
      cell = element("span", "figure");
      cell.dataset.figure = name;
      this.#cells.set(name, cell);
      this.root.append(cell);
    }
    if (cell.textContent !== text) cell.textContent = text;
    cell.hidden = text === "";
  }
}

function tokensLabel(stream, end) {
  if (end !== null) {
    const { input_tokens, output_tokens, source } = end.usage;
    return `${source === "estimated" ? "≈ " : ""}${input_tokens} in, ${output_tokens} tokens`;
  }
  return stream?.pieces ? `≈ ${stream.pieces} tokens` : "";
}

function leftOutLabel(count) {
  if (!count) return "";
  return `${count} earlier ${count === 1 ? "message was" : "messages were"} left out: the model's window is full`;
}

function endLabel(reason, end, by) {
  if (reason === "cancelled" && by) return `stopped by ${by}`;
  return END_LABELS[reason] ?? FINISH_LABELS[end?.finish_reason] ?? "";
}

function seconds(ms) {
  return ms < 1000 ? `${Math.max(0, Math.round(ms))} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function round(value) {
  return value < 100 ? value.toFixed(1) : String(Math.round(value));
}
