// Keeps a scroller at its end, but only for a reader who is there and selects nothing.
//
// Whether the text has grown is not asked: the browser tells when what is in the scroller has another height, after it
// has laid it out and before it is seen.

const NEAR_PX = 48; // this close to the end a reader counts as being there

export class EndKeeper {
  readonly #scroller: HTMLElement;
  readonly #onNear: (near: boolean) => void;
  readonly #sizes: ResizeObserver;
  #atEnd = true;
  #near = true;
  #top = 0;

  /** `content` is all that is in `scroller`.  `onNear`: whether the reader is near the end has changed. */
  constructor(scroller: HTMLElement, content: HTMLElement, onNear: (near: boolean) => void) {
    this.#scroller = scroller;
    this.#onNear = onNear;
    this.#sizes = new ResizeObserver(() => this.#keep());
    this.#sizes.observe(scroller);
    this.#sizes.observe(content);
    scroller.addEventListener("scroll", this.#look, { passive: true });
  }

  goToEnd(): void {
    this.#atEnd = true;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#top = this.#scroller.scrollTop;
    this.#tell();
  }

  /** Put up with a place that is no end: what the reader looks at stays where it is. */
  stay(): void {
    this.#atEnd = false;
  }

  end(): void {
    this.#sizes.disconnect();
    this.#scroller.removeEventListener("scroll", this.#look);
  }

  #keep(): void {
    const selects = !(document.getSelection()?.isCollapsed ?? true);
    if (this.#atEnd && !selects) this.goToEnd();
    else this.#tell();
  }

  readonly #look = (): void => {
    // Only scrolling up leaves the end: text that grew since the last look does not.
    if (this.#isNear()) this.#atEnd = true;
    else if (this.#scroller.scrollTop < this.#top) this.#atEnd = false;
    this.#top = this.#scroller.scrollTop;
    this.#tell();
  };

  #tell(): void {
    const near = this.#isNear();
    if (near === this.#near) return;
    this.#near = near;
    this.#onNear(near);
  }

  #isNear(): boolean {
    const { scrollTop, clientHeight, scrollHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_PX;
  }
}
