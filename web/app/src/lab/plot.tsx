// A plot with its keys, and the same as text.
//
// The canvas is a picture with a name; what it shows is also in a table that anybody can unfold, and the keys tell the
// values under the pointer.  The drawing is made anew when the theme changes, by choice or by the system.

import type { ComponentChildren, JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type uPlot from "uplot";

import { Drawing } from "./drawing.ts";
import type { MakeOptions, Moment } from "./drawing.ts";

export interface PlotKey {
  readonly label: string;
  readonly mark: "left" | "right" | "wash" | "warn" | "alarm"; // the colour, and the shape of the swatch
  readonly shown?: (value: number) => string;
}

export interface PlotProps {
  /** What tests and styles know it by. */
  name: string;
  title: string;
  /** One sentence for who does not see it. */
  summary: string;
  data: uPlot.AlignedData;
  /** A constant: another one makes another drawing. */
  make: MakeOptions;
  height: number;
  /** One for each column after x, then those of `moments`. */
  keys: readonly PlotKey[];
  moments?: readonly Moment[];
  /** The same as a table. */
  children: ComponentChildren;
}

const NO_MOMENTS: readonly Moment[] = [];

export function Plot(props: PlotProps): JSX.Element {
  const { name, title, summary, data, make, height, keys, moments = NO_MOMENTS, children } = props;
  const host = useRef<HTMLDivElement>(null);
  const drawing = useRef<Drawing | null>(null);
  const [pointed, setPointed] = useState<number | null>(null);
  const theme = useTheme();
  useEffect(() => {
    const made = new Drawing(host.current as HTMLDivElement, { make, height, data, pointed: setPointed });
    drawing.current = made;
    made.show(data, moments);
    return () => made.destroy();
  }, [make, height, theme]);
  useEffect(() => drawing.current?.show(data, moments), [data, moments]);
  return (
    <figure class="plot" data-plot={name}>
      <figcaption>
        <span class="plot-title">{title}</span>
        <ul class="plot-keys">
          {keys.map((key, place) => (
            <li key={key.label} data-mark={key.mark}>
              {key.label}
              <span class="plot-value">{valueOf(key, data[place + 1], pointed)}</span>
            </li>
          ))}
        </ul>
      </figcaption>
      <div
        class="plot-canvas"
        ref={host}
        role="img"
        aria-label={`${title}. ${summary}`}
        style={{ minHeight: `${height}px` }}
      />
      <details class="plot-table">
        <summary>As a table</summary>
        {children}
      </details>
    </figure>
  );
}

type Values = ArrayLike<number | null | undefined>;

function valueOf(key: PlotKey, column: Values | undefined, pointed: number | null): string {
  const value = pointed === null ? null : column?.[pointed];
  return typeof value === "number" && key.shown ? ` ${key.shown(value)}` : "";
}

/** Counts the changes of theme. */
function useTheme(): number {
  const [changes, count] = useState(0);
  useEffect(() => {
    const changed = (): void => count((before) => before + 1);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", changed);
    const observer = new MutationObserver(changed);
    observer.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    return () => {
      dark.removeEventListener("change", changed);
      observer.disconnect();
    };
  }, []);
  return changes;
}
