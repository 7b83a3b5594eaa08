// A plot on a canvas: uPlot with the page's colours, loaded when the first one is wanted.
//
// uPlot sets styles through the CSSOM and writes no HTML, so the page's policy lets it be; its own legend stays off,
// since a reader wants the keys and a table as text (plot.tsx).  New data is drawn at most ten times a second: nobody
// reads a curve faster.  The colours are the page's custom properties, read when the drawing is made: another theme
// makes another drawing.

import type uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

export interface Colours {
  readonly ink: string;
  readonly quiet: string;
  readonly line: string;
  readonly left: string;
  readonly right: string;
  readonly wash: string;
  readonly alarm: string;
  readonly warn: string;
}

/** A moment to be marked with a line from top to bottom. */
export interface Moment {
  readonly x: number;
  readonly colour: keyof Colours;
}

export type Options = Omit<uPlot.Options, "width" | "height">;
/** `paths` are uPlot's ways to draw a series. */
export type MakeOptions = (colours: Colours, paths: uPlot.Series.PathBuilderFactories) => Options;

const PROPERTIES: Record<keyof Colours, string> = {
  ink: "--ink",
  quiet: "--quiet",
  line: "--line",
  left: "--lab-left",
  right: "--lab-right",
  wash: "--lab-wash",
  alarm: "--alarm",
  warn: "--warn",
};
const DRAW_EVERY_MS = 100;
const FONT = "12px system-ui, sans-serif";

export class Drawing {
  readonly #host: HTMLElement;
  readonly #make: MakeOptions;
  readonly #height: number;
  readonly #pointed: (place: number | null) => void;
  #data: uPlot.AlignedData;
  #moments: readonly Moment[] = [];
  #plot: uPlot | null = null;
  #gone = false;
  #timer = 0;
  #drawnAt = -Infinity;
  readonly #observer = new ResizeObserver(() => this.#fit());

  /** `pointed` is told over which place of the data the pointer is. */
  constructor(
    host: HTMLElement,
    { make, height, data, pointed }: {
      make: MakeOptions;
      height: number;
      data: uPlot.AlignedData;
      pointed: (place: number | null) => void;
    },
  ) {
    this.#host = host;
    this.#make = make;
    this.#height = height;
    this.#data = data;
    this.#pointed = pointed;
    // Where it cannot be loaded there is no picture; the table beside it says the same.
    this.#begin().catch(() => this.destroy());
  }

  show(data: uPlot.AlignedData, moments: readonly Moment[]): void {
    this.#data = data;
    this.#moments = moments;
    if (this.#timer !== 0) return;
    const waitMs = Math.max(0, this.#drawnAt + DRAW_EVERY_MS - performance.now());
    this.#timer = window.setTimeout(() => this.#draw(), waitMs);
  }

  destroy(): void {
    this.#gone = true;
    clearTimeout(this.#timer);
    this.#observer.disconnect();
    this.#plot?.destroy();
  }

  async #begin(): Promise<void> {
    const { default: Plot } = await import("uplot");
    if (this.#gone) return;
    const colours = coloursOf(this.#host);
    const options = this.#make(colours, Plot.paths);
    const hooks: uPlot.Hooks.Arrays = {
      draw: [(plot) => this.#drawMoments(plot, colours)],
      setCursor: [(plot) => this.#pointed(plot.cursor.idx ?? null)],
    };
    const size = { width: Math.max(1, this.#host.clientWidth), height: this.#height };
    const own = { legend: { show: false }, hooks, axes: axesIn(options.axes, colours) };
    this.#plot = new Plot({ ...options, ...size, ...own }, this.#data, this.#host);
    this.#observer.observe(this.#host);
  }

  #draw(): void {
    this.#timer = 0;
    this.#drawnAt = performance.now();
    this.#plot?.setData(this.#data);
  }

  #fit(): void {
    const width = this.#host.clientWidth;
    if (width > 0 && width !== this.#plot?.width) this.#plot?.setSize({ width, height: this.#height });
  }

  #drawMoments(plot: uPlot, colours: Colours): void {
    const { ctx } = plot;
    const { left, top, width, height } = plot.bbox;
    ctx.save();
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const { x, colour } of this.#moments) {
      const place = plot.valToPos(x, "x", true);
      if (!(place >= left && place <= left + width)) continue;
      ctx.strokeStyle = colours[colour];
      ctx.beginPath();
      ctx.moveTo(place, top);
      ctx.lineTo(place, top + height);
      ctx.stroke();
    }
    ctx.restore();
  }
}

function coloursOf(host: HTMLElement): Colours {
  const style = getComputedStyle(host);
  const entries = Object.entries(PROPERTIES).map(([name, property]) => [name, style.getPropertyValue(property).trim()]);
  return Object.fromEntries(entries) as Colours;
}

function axesIn(axes: uPlot.Axis[] | undefined, { quiet, line }: Colours): uPlot.Axis[] {
  return (axes ?? []).map((axis) => ({
    stroke: quiet,
    font: FONT,
    labelFont: FONT,
    labelSize: 16,
    size: 44,
    ...axis,
    grid: { stroke: line, width: 1, ...axis.grid },
    ticks: { stroke: line, width: 1, size: 4, ...axis.ticks },
  }));
}
