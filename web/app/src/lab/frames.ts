// A frame as the developer drawer lists it, and what is asked of the list: which rows are wanted, and all as text.
//
// A row holds the frame itself and makes text of it only when somebody searches or looks.  What gives access (`token`,
// in `hello` and `auth`) is taken out here, whoever hands the frame over: a picture of the drawer, or an exported file,
// goes to people who must not have it.

export type FrameLike = { readonly type: string } & { readonly [key: string]: unknown };

export interface Row {
  readonly n: number; // counts up from 0, also over what was dropped
  readonly at: number; // ms of performance.now()
  readonly direction: "in" | "out" | "mark";
  readonly type: string; // of a mark: what happened
  readonly stream: string | null; // whose range it is
  readonly after: number | null;
  readonly upto: number | null;
  readonly bytes: number; // on the wire
  readonly frame: FrameLike | null; // null: a mark
}

/** What is wanted; "" wants all. */
export interface Wanted {
  readonly direction: "" | "in" | "out";
  readonly type: string;
  readonly stream: string;
  readonly text: string;
}

export const ALL: Wanted = { direction: "", type: "", stream: "", text: "" };
const HIDDEN = "…";
const HIDES = "token";

/** The frame without what gives access. */
export function redacted(frame: FrameLike): FrameLike {
  return HIDES in frame ? { ...frame, [HIDES]: HIDDEN } : frame;
}

export function frameRow(n: number, at: number, direction: "in" | "out", frame: FrameLike, bytes: number): Row {
  const [after, upto] = [wholeNumber(frame["after"]), wholeNumber(frame["upto"])];
  const { type } = frame;
  return { n, at, direction, type, stream: streamOf(frame), after, upto, bytes, frame: redacted(frame) };
}

/** Something that happened between the frames: a connection lost, come back, cut on purpose. */
export function markRow(n: number, at: number, text: string): Row {
  return { n, at, direction: "mark", type: text, stream: null, after: null, upto: null, bytes: 0, frame: null };
}

/**
 * The stream that a frame's range counts in.  In an entry of a session that is the session, also where `stream` names a
 * response stream (`turn_start`, `turn_end`); of a response stream's entries only `request_start` names a session.
 */
export function streamOf(frame: FrameLike): string | null {
  const { stream, session } = frame;
  if (typeof session === "string" && frame.type !== "request_start" && wholeNumber(frame["upto"]) !== null) {
    return session;
  }
  if (typeof stream === "string") return stream;
  return typeof session === "string" ? session : null;
}

/** How many entries it carries, or null where it is none. */
export function entriesOf(row: Row): number | null {
  return row.after === null || row.upto === null ? null : row.upto - row.after;
}

/** Whether a row is wanted.  Marks belong to all streams, and to what is searched for only where they say it. */
export function matches(row: Row, wanted: Wanted): boolean {
  if (row.frame === null) return wanted.text === "" || row.type.toLowerCase().includes(wanted.text.toLowerCase());
  if (wanted.direction !== "" && row.direction !== wanted.direction) return false;
  if (wanted.type !== "" && row.type !== wanted.type) return false;
  if (wanted.stream !== "" && row.stream !== wanted.stream && row.frame["stream"] !== wanted.stream) return false;
  return wanted.text === "" || JSON.stringify(row.frame).toLowerCase().includes(wanted.text.toLowerCase());
}

/** Half-open, as the protocol has it: "(3, 7]". */
export function rangeLabel(row: Row): string {
  if (row.upto === null) return "";
  return row.after === null ? `upto ${row.upto}` : `(${row.after}, ${row.upto}]`;
}

/** The end of an id tells streams apart, and fits. */
export function shortId(id: string | null): string {
  if (id === null) return "";
  return id.length <= 10 ? id : `${id.slice(0, 2)}…${id.slice(-6)}`;
}

/** One line of JSON a row.  `origin` is the Unix time in ms of performance.now() = 0. */
export function ndjson(rows: readonly Row[], origin: number): string {
  return rows.map((row) => `${JSON.stringify(exported(row, origin))}\n`).join("");
}

function exported(row: Row, origin: number): object {
  const at = new Date(origin + row.at).toISOString();
  if (row.frame === null) return { at, direction: row.direction, text: row.type };
  return { at, direction: row.direction, bytes: row.bytes, frame: row.frame };
}

export function wholeNumber(value: unknown): number | null {
  return Number.isSafeInteger(value) ? (value as number) : null;
}
