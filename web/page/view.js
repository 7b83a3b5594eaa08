// What a turn looks like.  A view is brought up to date from plain state, at most once a frame of the screen.
//
// Text only ever grows at its end, so a view remembers how much it shows and appends the rest to a text node: what is
// selected stays selected, and a long answer costs no more a token than a short one.  When the stream's `revision`
// changes, what was shown is void and the view begins anew.  Everything a model says is set as text, never as HTML.

import { Phase, canAskAgain } from "./conversation.js";

const END_LABELS = {
  cancelled: "stopped",
  interrupted: "interrupted: this is the part that was saved",
  budget: "stopped: the budget is used up",
};
const RUN_CHARACTERS = 2_000; // a run of text is at least this long
const NEAR_PX = 48; // this close to the end a reader counts as being there
const FINISH_LABELS = { length: "cut at the most tokens", content_filter: "cut by the provider's content filter" };

/** An element with a class and, where given, a text. */
export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A text node that follows a growing string. */
class GrowingText {
  #node = document.createTextNode("");
  #shown = 0;

  constructor(parent) {
    parent.append(this.#node);
  }

  show(text) {
    if (text.length === this.#shown) return;
    this.#node.appendData(text.slice(this.#shown));
    this.#shown = text.length;
  }
}

/**
 * The answer: runs of text with a quiet mark at each seam.  A run ends at a line's end once it is long enough: a browser
 * lays out a whole block when its text grows, so without runs each token would cost as much as all before it.  A seam's
 * mark is drawn by the style sheet, so that copying the answer copies the answer.
 */
class AnswerText {
  #parent;
  #run;
  #runLength = 0;
  #node;
  #shown = 0;
  #seams = 0;

  constructor(parent) {
    this.#parent = parent;
    this.#startRun();
  }

  show(text, seams) {
    for (; this.#seams < seams.length; this.#seams++) {
      const seam = seams[this.#seams];
      this.#appendUpto(text, seam.at);
      const mark = element("span", "seam");
      mark.dataset.label = seamLabel(seam);
      mark.setAttribute("role", "img");
      mark.setAttribute("aria-label", seamLabel(seam));
      this.#node = document.createTextNode("");
      this.#run.append(mark, this.#node);
    }
    this.#appendUpto(text, text.length);
  }

  #startRun() {
    this.#run = element("div", "run");
    this.#runLength = 0;
    this.#node = document.createTextNode("");
    this.#run.append(this.#node);
    this.#parent.append(this.#run);
  }

  #appendUpto(text, upto) {
    while (this.#shown < upto) {
      const lineEnd = text.indexOf("\n", this.#shown + Math.max(0, RUN_CHARACTERS - this.#runLength));
      const runEnds = lineEnd !== -1 && lineEnd + 1 < upto;
      const piece = text.slice(this.#shown, runEnds ? lineEnd + 1 : upto);
      this.#node.appendData(piece);
      this.#runLength += piece.length;
      this.#shown += piece.length;
      if (runEnds) this.#startRun();
    }
  }
}

function seamLabel({ reason, continuation, check }) {
  const cause = {
    node_lost: "after a server loss",
    drain: "on another server",
    provider_lost: "after the provider broke off",
  }[reason];
  if (continuation === null) return `broken off here ${cause ?? ""}`.trim();
  const how = continuation === "restart" ? "started again" : "carried on";
  const doubt = check === "unverified" ? " (join not verified)" : "";
  return `${how} ${cause ?? ""}`.trim() + doubt;
}

/** One turn: the prompt, and the answer as far as it has come. */
export class TurnView {
  #revision = -1;
  #parts = null;

  /** `onAskAgain()` is called when the reader wants the same prompt asked once more. */
  constructor(turn, onAskAgain) {
    this.root = element("article", "turn");
    this.root.dataset.request = turn.request_id;
    const said = element("div", "said");
    said.append(element("h3", "unseen", "You"), element("div", "text", turn.prompt));
    this.reply = element("div", "reply");
    this.reply.append(element("h3", "unseen", turn.model));
    this.body = element("div", "body");
    this.failure = element("p", "failure");
    this.failure.hidden = true;
    this.figures = new Figures();
    this.again = element("button", "plain again", "Ask again");
    this.again.type = "button";
    this.again.hidden = true;
    this.again.addEventListener("click", onAskAgain);
    const foot = element("div", "foot");
    foot.append(this.figures.root, this.again);
    this.reply.append(this.body, this.failure, foot);
    this.root.append(said, this.reply);
  }

  /** Bring it up to date.  `rate` is pieces a second or null; `isLast` whether it may be asked again. */
  show(turn, { now, rate, isLast }) {
    const stream = turn.stream;
    const live = turn.phase !== Phase.ENDED;
    this.root.dataset.state = live ? "live" : (stream?.end?.reason ?? "failed");
    this.root.setAttribute("aria-busy", String(live));
    if (stream !== null) this.#showStream(stream);
    this.#showFailure(turn);
    this.figures.show(turn, { now, rate });
    this.again.hidden = !(isLast && canAskAgain(turn));
  }

  #showStream(stream) {
    if (this.#revision !== stream.revision || this.#parts === null) {
      this.#revision = stream.revision;
      this.body.replaceChildren();
      this.#parts = { thinking: null, tools: new Map(), answer: null, refusal: null };
    }
    const parts = this.#parts;
    if (stream.thinking) {
      parts.thinking ??= this.#addThinking();
      parts.thinking.text.show(stream.thinking);
      const done = stream.text !== "" || stream.tool_calls.length > 0 || stream.end !== null;
      parts.thinking.summary.textContent = done ? "Thought" : "Thinking …";
    }
    if (stream.text || stream.seams.length) {
      parts.answer ??= new AnswerText(this.#add("div", "text answer"));
      parts.answer.show(stream.text, stream.seams);
    }
    if (stream.refusal) {
      parts.refusal ??= new GrowingText(this.#add("div", "text refusal"));
      parts.refusal.show(stream.refusal);
    }
    for (const call of stream.tool_calls) {
      if (!parts.tools.has(call.index)) parts.tools.set(call.index, this.#addTool());
      const tool = parts.tools.get(call.index);
      tool.name.textContent = call.name ?? "…";
      tool.text.show(call.arguments);
    }
  }

  #add(tag, className) {
    const made = element(tag, className);
    this.body.append(made);
    return made;
  }

  #addThinking() {
    const fold = this.#add("details", "thinking");
    const summary = element("summary", "");
    const text = element("div", "text");
    fold.append(summary, text);
    return { summary, text: new GrowingText(text) };
  }

  #addTool() {
    const box = this.#add("div", "tool");
    const head = element("p", "tool-head", "Tool call ");
    const name = element("code", "tool-name");
    head.append(name);
    const text = element("pre", "tool-arguments");
    box.append(head, text);
    return { name, text: new GrowingText(text) };
  }

  #showFailure(turn) {
    const failed = turn.error ?? turn.stream?.end?.error ?? null;
    this.failure.hidden = failed === null;
    if (failed === null || this.failure.childElementCount) return;
    this.failure.append(element("code", "", failed.code), ` ${failed.message}`);
  }
}

const FIGURES = ["end", "waiting", "ttft", "tokens", "rate", "total", "cost", "left-out"]; // in the order shown

/** The line of figures under an answer: how soon, how much, how fast, how it ended. */
class Figures {
  #cells = new Map();

  constructor() {
    this.root = element("p", "figures");
    for (const name of FIGURES) this.#set(name, "");
  }

  show(turn, { now, rate }) {
    const stream = turn.stream;
    const end = stream?.end ?? null;
    const ttftMs = end?.metrics.ttft_ms ?? stream?.ttft_ms ?? null;
    const waiting = turn.phase !== Phase.ENDED && ttftMs === null;
    this.#set("waiting", waiting ? `waiting ${seconds(now - turn.asked_at)}` : "");
    this.#set("ttft", ttftMs === null ? "" : `first token ${seconds(ttftMs)}`);
    this.#set("tokens", tokensLabel(stream, end));
    const perSecond = end === null ? rate : end.metrics.tokens_per_s;
    this.#set("rate", perSecond === null ? "" : `${round(perSecond)} tokens/s`);
    this.#set("total", end === null ? "" : seconds(end.metrics.total_ms));
    this.#set("cost", end?.cost ? `${Number(end.cost.total.toPrecision(2))} ${end.cost.currency}` : "");
    this.#set("left-out", turn.left_out ? `${turn.left_out} oldest messages left out: too long` : "");
    this.#set("end", endLabel(turn, end));
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

function endLabel(turn, end) {
  if (turn.phase !== Phase.ENDED) return turn.stopping ? "stopping …" : "";
  if (end === null) return turn.stopping ? "stopped" : "";
  return END_LABELS[end.reason] ?? FINISH_LABELS[end.finish_reason] ?? "";
}

function seconds(ms) {
  return ms < 1000 ? `${Math.max(0, Math.round(ms))} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function round(value) {
  return value < 100 ? value.toFixed(1) : String(Math.round(value));
}

const SENTENCE_ENDS = [". ", "! ", "? ", "\n"];

/** Speaks an answer to a screen reader in whole sentences, every few seconds: politely, and never twice. */
export class Speaker {
  #region;
  #everyMs;
  #spokenAt = 0;
  #spoken = 0;

  constructor(region, everyMs = 4_000) {
    this.#region = region;
    this.#everyMs = everyMs;
  }

  /** Begin with another text, of which the first `spoken` characters need not be said. */
  begin(spoken = 0) {
    this.#spoken = spoken;
  }

  /** The answer is `text` so far. */
  follow(text, now) {
    if (text.length < this.#spoken) this.#spoken = 0;
    if (text.length === this.#spoken || now - this.#spokenAt < this.#everyMs) return;
    const fresh = text.slice(this.#spoken);
    const upto = Math.max(...SENTENCE_ENDS.map((mark) => fresh.lastIndexOf(mark))) + 1;
    if (upto === 0) return;
    this.#spokenAt = now;
    this.#spoken += upto;
    this.#region.textContent = fresh.slice(0, upto);
  }

  /** The answer ended as `text`; `how` is said behind what is left of it. */
  finish(text, how) {
    this.#region.textContent = `${text.slice(this.#spoken)} ${how}`.trim();
    this.#spoken = text.length;
  }
}

/** Keeps a scroller at its end, but only for a reader who is there and selects nothing. */
export class EndKeeper {
  #scroller;
  #button;
  #atEnd = false;
  #top = 0;

  constructor(scroller, button) {
    this.#scroller = scroller;
    this.#button = button;
    scroller.addEventListener("scroll", () => this.#look(), { passive: true });
    button.addEventListener("click", () => this.goToEnd());
    new ResizeObserver(() => this.keep()).observe(scroller);
  }

  /** To be called after something was appended. */
  keep() {
    const selects = !(document.getSelection()?.isCollapsed ?? true);
    if (this.#atEnd && !selects) this.goToEnd();
    else this.#button.hidden = this.#isNear();
  }

  goToEnd() {
    this.#atEnd = true;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#top = this.#scroller.scrollTop;
    this.#button.hidden = true;
  }

  #look() {
    const near = this.#isNear();
    // Only scrolling up leaves the end: text that grew since the last look does not.
    if (near) this.#atEnd = true;
    else if (this.#scroller.scrollTop < this.#top) this.#atEnd = false;
    this.#top = this.#scroller.scrollTop;
    this.#button.hidden = near;
  }

  #isNear() {
    const { scrollTop, clientHeight, scrollHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_PX;
  }
}
