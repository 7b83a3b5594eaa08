// The list of frames: however many there are, only the rows in sight exist.
//
// Every row has the same height, so a scroll position is a row number and back.  Who looks at the end stays at the end;
// who has scrolled up is left alone.  It is a list box: one row is chosen, the arrow keys move the choice, and its JSON
// is shown beside.

import type { JSX } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

import { rangeLabel, shortId } from "./frames.ts";
import type { Row } from "./frames.ts";
import type { Shown } from "./shown.ts";

const ROW_PX = 24; // as in lab.css
const BEYOND = 8; // rows drawn outside of what is seen, above and below
const PAGE_ROWS = 10;
const ARROWS = { in: "↓", out: "↑", mark: "" } as const;
const SAID = { in: "in", out: "out", mark: "event" } as const;

export interface FrameListProps {
  shown: Shown;
  chosen: Row | null;
  onChoose: (row: Row) => void;
}

export function FrameList({ shown, chosen, onChoose }: FrameListProps): JSX.Element {
  const { list, top, height } = useScroll(shown);
  const first = Math.max(0, Math.floor(top / ROW_PX) - BEYOND);
  const last = Math.min(shown.length, Math.ceil((top + height) / ROW_PX) + BEYOND);
  const rows: Row[] = [];
  for (let place = first; place < last; place += 1) {
    const row = shown.at(place);
    if (row !== undefined) rows.push(row);
  }
  const keyed = (event: KeyboardEvent): void => {
    const place = placeAfter(event.key, chosen === null ? -1 : shown.placeOf(chosen.n), shown.length);
    const row = place === null ? undefined : shown.at(place);
    if (place === null || row === undefined) return;
    event.preventDefault();
    onChoose(row);
    reveal(list.current as HTMLDivElement, place);
  };
  return (
    <div
      class="frame-list"
      id="frame-list"
      ref={list}
      role="listbox"
      tabIndex={0}
      aria-label="Frames"
      aria-activedescendant={rows.some((row) => row.n === chosen?.n) ? `frame-${chosen?.n}` : undefined}
      onKeyDown={keyed}
    >
      <div class="frame-space" role="presentation" style={{ height: `${shown.length * ROW_PX}px` }}>
        {rows.map((row, index) => (
          <FrameRow
            key={row.n}
            row={row}
            place={first + index}
            count={shown.length}
            chosen={row.n === chosen?.n}
            onChoose={onChoose}
          />
        ))}
      </div>
    </div>
  );
}

interface FrameRowProps {
  row: Row;
  place: number;
  count: number;
  chosen: boolean;
  onChoose: (row: Row) => void;
}

function FrameRow({ row, place, count, chosen, onChoose }: FrameRowProps): JSX.Element {
  return (
    <div
      id={`frame-${row.n}`}
      class="frame-row"
      role="option"
      aria-selected={chosen}
      aria-posinset={place + 1}
      aria-setsize={count}
      data-direction={row.direction}
      data-type={row.frame === null ? "mark" : row.type}
      style={{ top: `${place * ROW_PX}px` }}
      onClick={() => onChoose(row)}
    >
      <span class="frame-time">{clockOf(row.at)}</span>
      <span class="frame-way">
        <span aria-hidden="true">{ARROWS[row.direction]}</span>
        <span class="unseen">{SAID[row.direction]}</span>
      </span>
      <span class="frame-type">{row.type}</span>
      <span class="frame-stream" title={row.stream ?? undefined}>
        {shortId(row.stream)}
      </span>
      <span class="frame-range">{rangeLabel(row)}</span>
      <span class="frame-bytes">{row.frame === null ? "" : `${row.bytes} B`}</span>
    </div>
  );
}

/** Time of day with milliseconds. */
export function clockOf(at: number): string {
  const date = new Date(performance.timeOrigin + at);
  const two = (value: number): string => String(value).padStart(2, "0");
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
  return `${time}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

function placeAfter(key: string, place: number, count: number): number | null {
  const moves: Record<string, number> = {
    ArrowDown: place + 1,
    ArrowUp: place - 1,
    PageDown: place + PAGE_ROWS,
    PageUp: place - PAGE_ROWS,
    Home: 0,
    End: count - 1,
  };
  const to = moves[key];
  return to === undefined ? null : Math.min(count - 1, Math.max(0, to));
}

function reveal(list: HTMLElement, place: number): void {
  const top = place * ROW_PX;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW_PX > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_PX - list.clientHeight;
}

/** What is in sight, and staying at the end. */
function useScroll(shown: Shown): { list: { current: HTMLDivElement | null }; top: number; height: number } {
  const list = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  const [{ top, height }, see] = useState({ top: 0, height: 0 });
  useLayoutEffect(() => {
    const element = list.current as HTMLDivElement;
    const look = (): void => see({ top: element.scrollTop, height: element.clientHeight });
    const scrolled = (): void => {
      atEnd.current = element.scrollTop + element.clientHeight >= element.scrollHeight - ROW_PX;
      look();
    };
    const observer = new ResizeObserver(look);
    observer.observe(element);
    element.addEventListener("scroll", scrolled, { passive: true });
    return () => {
      observer.disconnect();
      element.removeEventListener("scroll", scrolled);
    };
  }, []);
  const { length } = shown;
  const newest = shown.at(length - 1)?.n;
  useLayoutEffect(() => {
    const element = list.current as HTMLDivElement;
    if (atEnd.current && !shown.held) element.scrollTop = element.scrollHeight;
  }, [newest, length, height]);
  return { list, top, height };
}
