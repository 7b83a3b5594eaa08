// What is known of the connection, and where each stream stands.

import type { Client, Session } from "@everstream/client";
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";

import { shortId } from "./frames.ts";
import type { Place } from "./places.ts";
import type { Recorder } from "./recorder.ts";
import { duration, NOTHING } from "./runs.ts";

const LOOK_EVERY_MS = 500;

export interface FactsProps {
  client: Client;
  session: Session | null;
  recorder: Recorder;
  encoding: string;
}

export function Facts({ client, session, recorder, encoding }: FactsProps): JSX.Element {
  useLooks();
  const { welcome } = client;
  const heard = recorder.heardAt;
  const facts: [string, string, string][] = [
    ["state", "State", client.state],
    ["transport", "Transport", client.transport ?? NOTHING],
    ["encoding", "Encoding", encoding],
    ["node", "Node", welcome?.node ?? NOTHING],
    ["connection", "Connection", welcome?.connection ?? NOTHING],
    ["user", "User", welcome?.user.id ?? NOTHING],
    ["heard", "Last heard", heard === null ? NOTHING : `${duration(performance.now() - heard)} ago`],
    ["heartbeats", "Heartbeats", heartbeatsLabel(recorder.heartbeats, welcome?.heartbeat_ms)],
    ["reconnects", "Reconnects", String(recorder.reconnects)],
    ["in", "In", `${recorder.framesIn} frames, ${bytesLabel(recorder.bytesIn)}`],
    ["out", "Out", `${recorder.framesOut} frames, ${bytesLabel(recorder.bytesOut)}`],
  ];
  return (
    <div class="facts">
      <dl>
        {facts.map(([name, label, text]) => (
          <div key={name}>
            <dt>{label}</dt>
            <dd data-fact={name}>{text}</dd>
          </div>
        ))}
      </dl>
      <PlacesTable places={placesOf(recorder, session)} />
    </div>
  );
}

function heartbeatsLabel(count: number, everyMs: number | undefined): string {
  return everyMs === undefined ? String(count) : `${count}, after ${duration(everyMs)} of silence`;
}

export function bytesLabel(bytes: number): string {
  if (bytes < 1_000) return `${bytes} B`;
  return bytes < 1_000_000 ? `${(bytes / 1_000).toFixed(1)} kB` : `${(bytes / 1_000_000).toFixed(1)} MB`;
}

/** As the frames say; the open session also where none of its frames has passed yet. */
function placesOf(recorder: Recorder, session: Session | null): Place[] {
  const places = recorder.places.all;
  const state = session?.id ? session.state : null;
  if (state === null || places.some(({ stream }) => stream === state.id)) return places;
  const { epoch, offset } = state;
  return [{ stream: state.id ?? "", epoch, offset, tail: null, ended: false, frames: 0, bytes: 0 }, ...places];
}

function PlacesTable({ places }: { places: readonly Place[] }): JSX.Element | null {
  if (places.length === 0) return null;
  return (
    <table class="places" id="places">
      <caption>Streams</caption>
      <thead>
        <tr>
          {["Stream", "Epoch", "Offset", "Frames", "Bytes", ""].map((label) => (
            <th key={label} scope="col">
              {label || <span class="unseen">Status</span>}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {places.map((place) => (
          <tr key={place.stream} data-stream={place.stream} data-ended={place.ended}>
            <td title={place.stream}>{shortId(place.stream)}</td>
            <td>{place.epoch ?? NOTHING}</td>
            <td>{place.offset}</td>
            <td>{place.frames}</td>
            <td>{bytesLabel(place.bytes)}</td>
            <td>{place.ended ? "ended" : "open"}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** Time passes also while nothing comes. */
function useLooks(): void {
  const [, look] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => look((count) => count + 1), LOOK_EVERY_MS);
    return () => clearInterval(timer);
  }, []);
}
