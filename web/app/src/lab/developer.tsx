// The developer drawer: what passes over the connection, how evenly it comes, and where everything stands.
//
// What is shown is the recorder's (recorder.ts); the drawer draws it, at most a dozen times a second.  It lies at the
// bottom or at the right of the page, which makes room for it; on a phone always at the bottom.

import type { Client, Session } from "@everstream/client";
import type { JSX } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { copyText } from "../answer/copy.tsx";
import { useChanges } from "../state/changes.ts";
import { storeOf } from "../state/storage.ts";
import { keyed, leastOf, mostOf, placedIn, resized, sizeOf, storedDock, storeDock } from "./dock.ts";
import type { Dock } from "./dock.ts";
import { Facts } from "./facts.tsx";
import { FrameFilter } from "./frame_filter.tsx";
import { FrameList } from "./frame_list.tsx";
import { ndjson } from "./frames.ts";
import type { Row } from "./frames.ts";
import { paced } from "./pace.ts";
import { recorderOf } from "./recorder.ts";
import type { Recorder } from "./recorder.ts";
import { saveAs } from "./taking.ts";
import { Timing } from "./timing.tsx";
import "../styles/lab.css";

const STORE = storeOf(() => localStorage);

export interface DeveloperProps {
  client: Client;
  session: Session | null;
  onClose: () => void;
}

type Pane = "frame" | "timing" | "facts";
const PANES: readonly [Pane, string][] = [
  ["timing", "Timing"],
  ["frame", "Frame"],
  ["facts", "Connection"],
];
const NOTE_MS = 2_000;
const DRAWN_EVERY_MS = 80;

export function Developer({ client, session, onClose }: DeveloperProps): JSX.Element {
  const recorder = recorderOf(client);
  const [dock, setDock] = useDock();
  const [pane, setPane] = useState<Pane>("timing");
  const [chosen, choose] = useState<Row | null>(null);
  const [stream, chooseStream] = useState("");
  useLayoutEffect(() => recorder.start(), [recorder]);
  useChanges((changed) => watch(recorder, changed), [recorder]);
  const look = (row: Row): void => {
    choose(row);
    setPane("frame");
  };
  const streams = recorder.tracks.streams;
  return (
    <aside class="developer" id="developer" data-dock={dock.side} aria-label="Developer">
      <Handle dock={dock} onResize={setDock} />
      <Bar client={client} recorder={recorder} dock={dock} onDock={setDock} onClose={onClose} />
      <div class="developer-body">
        <div class="developer-frames">
          <FrameFilter recorder={recorder} streams={recorder.places.all.map((place) => place.stream)} />
          <FrameList shown={recorder.shown} chosen={chosen} onChoose={look} />
        </div>
        <div class="developer-pane">
          <Tabs pane={pane} onChoose={setPane} />
          <div class="developer-sheet" id={`pane-${pane}`} role="tabpanel" aria-labelledby={`tab-${pane}`} tabIndex={0}>
            {pane === "frame" && <FrameText row={chosen} />}
            {pane === "timing" && (
              <Timing
                streams={streams}
                stream={stream}
                track={recorder.tracks.of(stream || (streams.at(-1) ?? ""))}
                onChoose={chooseStream}
              />
            )}
            {pane === "facts" && (
              <Facts client={client} session={session} recorder={recorder} encoding={client.encoding} />
            )}
          </div>
        </div>
      </div>
    </aside>
  );
}

function watch(recorder: Recorder, changed: () => void): () => void {
  const pace = paced(changed, DRAWN_EVERY_MS);
  const stop = recorder.on(pace.note);
  return () => {
    stop();
    pace.stop();
  };
}

/** Lose the connection as a network would, and come back. */
function drop(client: Client, recorder: Recorder): void {
  recorder.mark("connection dropped on purpose");
  client.drop();
}

interface BarProps {
  client: Client;
  recorder: Recorder;
  dock: Dock;
  onDock: (dock: Dock) => void;
  onClose: () => void;
}

function Bar({ client, recorder, dock, onDock, onClose }: BarProps): JSX.Element {
  const { rows, shown } = recorder;
  const other = dock.side === "bottom" ? "right" : "bottom";
  const save = (): void => {
    const name = `frames-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.ndjson`;
    saveAs(name, ndjson(shown.toArray(), performance.timeOrigin), "application/x-ndjson");
  };
  return (
    <header class="lab-head">
      <h2>Developer</h2>
      <p class="hint" id="frame-count">
        {countLabel(shown.length, rows.length, rows.dropped, shown.held ? shown.sinceHeld : null)}
      </p>
      <button
        class="plain"
        id="frame-pause"
        aria-pressed={shown.held}
        onClick={() => (shown.held ? recorder.release() : recorder.hold())}
      >
        {shown.held ? "Go on" : "Pause"}
      </button>
      <button class="plain" id="frame-clear" onClick={() => recorder.clear()}>
        Clear
      </button>
      <button class="plain" id="frame-export" disabled={shown.length === 0} onClick={save}>
        Export
      </button>
      <button class="plain" id="drop-connection" onClick={() => drop(client, recorder)}>
        Drop the connection
      </button>
      <button class="plain" id="developer-dock" onClick={() => onDock({ ...dock, side: other })}>
        {other === "right" ? "Dock right" : "Dock below"}
      </button>
      <button class="plain" id="developer-close" onClick={onClose}>
        Close
      </button>
    </header>
  );
}

function countLabel(shown: number, held: number, dropped: number, since: number | null): string {
  const parts = [shown === held || since !== null ? `${shown} frames` : `${shown} of ${held} frames`];
  if (dropped > 0) parts.push(`${dropped} older ones let go`);
  if (since !== null) parts.push(`paused, ${since} since`);
  return parts.join(" · ");
}

function Tabs({ pane, onChoose }: { pane: Pane; onChoose: (pane: Pane) => void }): JSX.Element {
  const keyedTab = (event: KeyboardEvent): void => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    const place = PANES.findIndex(([name]) => name === pane);
    const next = PANES.at((place + step) % PANES.length);
    if (step === 0 || next === undefined) return;
    onChoose(next[0]);
    document.getElementById(`tab-${next[0]}`)?.focus();
  };
  return (
    <div class="tabs" role="tablist" aria-label="Details" onKeyDown={keyedTab}>
      {PANES.map(([name, label]) => (
        <button
          key={name}
          id={`tab-${name}`}
          class="tab"
          role="tab"
          aria-selected={name === pane}
          aria-controls={name === pane ? `pane-${name}` : undefined}
          tabIndex={name === pane ? 0 : -1}
          onClick={() => onChoose(name)}
        >
          {label}
        </button>
      ))}
    </div>
  );
}

function FrameText({ row }: { row: Row | null }): JSX.Element {
  const [said, say] = useState("");
  if (row === null) return <p class="hint">Choose a frame to see what it says.</p>;
  if (row.frame === null) return <p>{row.type}</p>;
  const text = JSON.stringify(row.frame, null, 2);
  const take = async (): Promise<void> => {
    say((await copyText(text)) ? "Copied" : "The browser does not allow it");
    setTimeout(() => say(""), NOTE_MS);
  };
  return (
    <>
      <div class="frame-text-head">
        <span class="hint">{`${row.direction}, ${row.bytes} bytes`}</span>
        <span class="hint" role="status">
          {said}
        </span>
        <button class="plain" id="frame-copy" onClick={() => void take()}>
          Copy
        </button>
      </div>
      <pre class="frame-text" id="frame-text">
        {text}
      </pre>
    </>
  );
}

// ------------------------------------------------------------------ its place and size

function extent(): { width: number; height: number } {
  return { width: innerWidth, height: innerHeight };
}

/** The dock, and the room that the page makes for it. */
function useDock(): [Dock, (dock: Dock) => void] {
  const [dock, set] = useState(() => storedDock(STORE));
  const [, fit] = useState(0);
  useEffect(() => {
    const resizedWindow = (): void => fit((count) => count + 1);
    addEventListener("resize", resizedWindow);
    return () => removeEventListener("resize", resizedWindow);
  }, []);
  const placed = placedIn(dock, extent());
  const px = sizeOf(placed, extent());
  useLayoutEffect(() => {
    const { style } = document.documentElement;
    style.setProperty(`--lab-${placed.side}-px`, `${px}px`);
    return () => void style.removeProperty(`--lab-${placed.side}-px`);
  }, [placed.side, px]);
  const change = (to: Dock): void => {
    storeDock(STORE, to);
    set(to);
  };
  return [placed, change];
}

function Handle({ dock, onResize }: { dock: Dock; onResize: (dock: Dock) => void }): JSX.Element {
  const pulled = useRef(false);
  const pull = (event: PointerEvent): void => {
    if (!pulled.current) return;
    const px = dock.side === "bottom" ? innerHeight - event.clientY : innerWidth - event.clientX;
    onResize(resized(dock, px, extent()));
  };
  const key = (event: KeyboardEvent): void => {
    const to = keyed(dock, event.key, extent());
    if (to === null) return;
    event.preventDefault();
    onResize(to);
  };
  return (
    <div
      class="developer-handle"
      id="developer-handle"
      role="separator"
      tabIndex={0}
      aria-label="Size of the drawer"
      aria-orientation={dock.side === "bottom" ? "horizontal" : "vertical"}
      aria-valuenow={sizeOf(dock, extent())}
      aria-valuemin={leastOf(dock.side)}
      aria-valuemax={mostOf(dock.side, extent())}
      onKeyDown={key}
      onPointerDown={(event) => {
        event.preventDefault();
        event.currentTarget.setPointerCapture(event.pointerId);
        pulled.current = true;
      }}
      onPointerMove={pull}
      onPointerUp={() => (pulled.current = false)}
      onPointerCancel={() => (pulled.current = false)}
    />
  );
}
