// Following an answer: with a screen reader's ear, and with the eye at its end.

const NEAR_PX = 48; // this close to the end a reader counts as being there
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
