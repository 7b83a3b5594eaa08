// Text as it is put into the page: as text, never as HTML, whatever a model or a person says.
//
// Text only ever grows at its end, so a view remembers how much it shows and appends the rest to a text node: what is
// selected stays selected, and a long answer costs no more a token than a short one.

const RUN_CHARACTERS = 2_000; // a run of text is at least this long

/** An element with a class and, where given, a text. */
export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** A button with a text, and what it does. */
export function button(className, text, act) {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

/** A text node that follows a growing string. */
export class GrowingText {
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
export class AnswerText {
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
