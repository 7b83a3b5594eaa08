// Where the developer drawer lies and how large it is: at the bottom or the right, as wide or high as it was pulled.
//
// The page makes room for it: `--lab-bottom-px` and `--lab-right-px` on the root element say how much (lab.css).

export type Side = "bottom" | "right";

export interface Dock {
  readonly side: Side;
  readonly bottomPx: number; // its height at the bottom
  readonly rightPx: number; // its width at the right
}

export const STEP_PX = 24;
const STORAGE_KEY = "everstream.developer.1";
const LEAST_PX: Record<Side, number> = { bottom: 160, right: 320 };
const LEFT_FOR_THE_PAGE_PX: Record<Side, number> = { bottom: 160, right: 320 };
const PHONE_PX = 768; // as in the styles
const FIRST: Dock = { side: "bottom", bottomPx: 380, rightPx: 480 };

export interface Extent {
  readonly width: number;
  readonly height: number;
}

/** A phone has no right side to spare. */
export function placedIn(dock: Dock, extent: Extent): Dock {
  return extent.width < PHONE_PX ? { ...dock, side: "bottom" } : dock;
}

export function sizeOf(dock: Dock, extent: Extent): number {
  return within(dock.side, dock.side === "bottom" ? dock.bottomPx : dock.rightPx, extent);
}

export function leastOf(side: Side): number {
  return LEAST_PX[side];
}

/** The largest that leaves the page its part; a window too small for both gives the drawer its least. */
export function mostOf(side: Side, extent: Extent): number {
  const whole = side === "bottom" ? extent.height : extent.width;
  return Math.max(LEAST_PX[side], whole - LEFT_FOR_THE_PAGE_PX[side]);
}

export function resized(dock: Dock, px: number, extent: Extent): Dock {
  const size = Math.round(within(dock.side, px, extent));
  return dock.side === "bottom" ? { ...dock, bottomPx: size } : { ...dock, rightPx: size };
}

/** What a key on the handle does to the size, or null where it does nothing.  Arrows point where the handle goes. */
export function keyed(dock: Dock, key: string, extent: Extent): Dock | null {
  const size = sizeOf(dock, extent);
  const [larger, smaller] = dock.side === "bottom" ? ["ArrowUp", "ArrowDown"] : ["ArrowLeft", "ArrowRight"];
  if (key === larger) return resized(dock, size + STEP_PX, extent);
  if (key === smaller) return resized(dock, size - STEP_PX, extent);
  if (key === "Home") return resized(dock, LEAST_PX[dock.side], extent);
  if (key === "End") return resized(dock, Infinity, extent);
  return null;
}

function within(side: Side, px: number, extent: Extent): number {
  return Math.min(mostOf(side, extent), Math.max(LEAST_PX[side], px));
}

/** As it was left.  Whatever else lies in the storage counts as nothing. */
export function storedDock(storage: Pick<Storage, "getItem">): Dock {
  try {
    const { side, bottomPx, rightPx } = JSON.parse(storage.getItem(STORAGE_KEY) ?? "{}") as Partial<Dock>;
    return {
      side: side === "right" ? "right" : "bottom",
      bottomPx: Number.isFinite(bottomPx) ? (bottomPx as number) : FIRST.bottomPx,
      rightPx: Number.isFinite(rightPx) ? (rightPx as number) : FIRST.rightPx,
    };
  } catch {
    return FIRST;
  }
}

/** A storage that is full, or not allowed, keeps nothing; the drawer works all the same. */
export function storeDock(storage: Pick<Storage, "setItem">, dock: Dock): void {
  try {
    storage.setItem(STORAGE_KEY, JSON.stringify(dock));
  } catch {
    // It comes as it was at first.
  }
}
