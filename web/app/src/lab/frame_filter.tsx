// Which frames are listed: by direction, type, stream and text.

import type { JSX } from "preact";

import { shortId } from "./frames.ts";
import type { Wanted } from "./frames.ts";
import type { Recorder } from "./recorder.ts";

const DIRECTIONS: readonly [Wanted["direction"], string][] = [
  ["", "in and out"],
  ["in", "in"],
  ["out", "out"],
];

export function FrameFilter({ recorder, streams }: { recorder: Recorder; streams: readonly string[] }): JSX.Element {
  const { wanted } = recorder.shown;
  // What is wanted by now: two things may be chosen before the next drawing.
  const want = (part: Partial<Wanted>): void => recorder.want({ ...recorder.shown.wanted, ...part });
  return (
    <div class="frame-filter" role="search" aria-label="Frames">
      <select
        id="frame-direction"
        aria-label="Direction"
        value={wanted.direction}
        onChange={(event) => want({ direction: event.currentTarget.value as Wanted["direction"] })}
      >
        {DIRECTIONS.map(([direction, label]) => (
          <option key={direction} value={direction}>
            {label}
          </option>
        ))}
      </select>
      <Choice
        id="frame-type"
        label="Type"
        all="all types"
        chosen={wanted.type}
        offered={[...recorder.types].sort()}
        onChoose={(type) => want({ type })}
      />
      <Choice
        id="frame-stream"
        label="Stream"
        all="all streams"
        chosen={wanted.stream}
        offered={streams}
        onChoose={(stream) => want({ stream })}
      />
      <input
        id="frame-search"
        type="search"
        aria-label="Text"
        placeholder="Text"
        value={wanted.text}
        onInput={(event) => want({ text: event.currentTarget.value })}
      />
    </div>
  );
}

interface ChoiceProps {
  id: string;
  label: string;
  all: string;
  chosen: string;
  offered: readonly string[];
  onChoose: (value: string) => void;
}

/** The chosen one stays offered, also when nothing of it is left. */
function Choice({ id, label, all, chosen, offered, onChoose }: ChoiceProps): JSX.Element {
  const values = chosen === "" || offered.includes(chosen) ? offered : [chosen, ...offered];
  return (
    <select id={id} aria-label={label} value={chosen} onChange={(event) => onChoose(event.currentTarget.value)}>
      <option value="">{all}</option>
      {values.map((value) => (
        <option key={value} value={value}>
          {shortLabel(value)}
        </option>
      ))}
    </select>
  );
}

function shortLabel(value: string): string {
  return /^[a-z]_/.test(value) && value.length > 20 ? shortId(value) : value;
}
