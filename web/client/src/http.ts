// Frames without a WebSocket: events come from `GET /v1/events`, commands go by `POST /v1/commands`.
//
//   GET events, with the places to resume --welcome, frames----------------------> heard
//   commands --one POST at a time, several in it--> 202: their replies are events
//                                              `--> 404: the events are on another server.  There the commands are
//                                                        carried out on their own, events opened anew, at all places
//
// Closing codes are those of a WebSocket: 401 is 4501, 403 is 4503, and what may pass is 1006 or 1013.

import type { Carrier, Carry, Heard } from "./carrier.ts";
import { bytesOf } from "./carrier.ts";
import type { Failure } from "./errors.ts";
import type { Command, Frame, HelloCommand, Resume } from "./frames.ts";
import { EventParser } from "./sse.ts";
import { addressOf } from "./websocket.ts";

const COMMANDS_MOST = 64; // in one request
const POST_UNITS_MOST = 262_144; // commands are added to a request below this
const PLACES_IN_ADDRESS = 64; // proxies take some 8 kB; what is more is subscribed to by commands
const TAKEN_WITHIN_MS = 20_000;
/** What a request has around one command. */
export const POST_OVERHEAD_BYTES = 128;

const CLOSE_OF_STATUS: Record<number, number> = { 401: 4501, 403: 4503, 413: 1009, 429: 1013, 503: 1013 };
const CLOSE_LOST = 1006;
const CLOSE_ELSEWHERE = 1012;

/** `token()` is what the requests show, at each time. */
export function overHttp(url: URL, get: typeof fetch, token: () => string | null): Carry {
  return (hello, heard) => new HttpCarrier(addressOf(url, "http"), get, token, hello(), heard);
}

class HttpCarrier implements Carrier {
  readonly overhead = POST_OVERHEAD_BYTES;
  #base: URL;
  #fetch: typeof fetch;
  #token: () => string | null;
  #heard: Heard;
  #stop = new AbortController();
  #connection = "";
  #queue: string[] = [];
  #posting = false;

  constructor(base: URL, get: typeof fetch, token: () => string | null, hello: HelloCommand, heard: Heard) {
    this.#base = base;
    this.#fetch = get;
    this.#token = token;
    this.#heard = heard;
    heard.said(hello, bytesOf(JSON.stringify(hello)));
    this.#listen(hello.resume ?? []).catch((error: unknown) => this.#over(CLOSE_LOST, String(error)));
  }

  encode(command: Command): string {
    return JSON.stringify(command);
  }

  send(encoded: string | Uint8Array): void {
    this.#queue.push(encoded as string);
    if (!this.#posting) this.#postAll().catch((error: unknown) => this.#over(CLOSE_LOST, String(error)));
  }

  close(): void {
    this.#stop.abort();
  }

  #over(code: number, reason: string, waitMs?: number): void {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    this.#heard.closed(code, reason, waitMs);
  }

  // ------------------------------------------------------------------ events

  async #listen(places: Resume[]): Promise<void> {
    const address = new URL("v1/events", this.#base);
    for (const place of places.slice(0, PLACES_IN_ADDRESS)) address.searchParams.append("at", written(place));
    const response = await this.#ask(address, { headers: { accept: "text/event-stream" } });
    if (response.status !== 200 || response.body === null) {
      await this.#refused(response);
      return;
    }
    const parser = new EventParser();
    const decoder = new TextDecoder();
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done || this.#stop.signal.aborted) break;
      this.#heard.alive();
      for (const data of parser.push(decoder.decode(value, { stream: true }))) this.#take(data, places);
    }
    this.#over(CLOSE_LOST, "the events have ended");
  }

  #take(data: string, places: Resume[]): void {
    const frame = JSON.parse(data) as Frame;
    if (frame.type === "welcome") this.#connection = frame.connection;
    if (!this.#stop.signal.aborted) this.#heard.frame(frame, bytesOf(data));
    if (frame.type !== "welcome") return;
    for (const place of places.slice(PLACES_IN_ADDRESS)) this.send(this.encode({ type: "subscribe", ...place }));
  }

  // ------------------------------------------------------------------ commands

  /** One request after the other, so that commands arrive in their order. */
  async #postAll(): Promise<void> {
    this.#posting = true;
    while (this.#queue.length > 0 && !this.#stop.signal.aborted) {
      const commands = this.#queue.splice(0, this.#batch());
      const response = await this.#post(`{"connection":${JSON.stringify(this.#connection)},"commands":[${commands}]}`);
      if (response.status === 404) return await this.#carryOutHere(commands);
      if (response.status !== 202) return await this.#refused(response);
      await response.body?.cancel();
    }
    this.#posting = false;
  }

  #batch(): number {
    let units = 0;
    const most = this.#queue.findIndex((command) => (units += command.length) > POST_UNITS_MOST);
    return Math.max(1, Math.min(COMMANDS_MOST, most === -1 ? this.#queue.length : most));
  }

  /** The events are on another server: their replies are the answer, and all goes on with events from here. */
  async #carryOutHere(commands: string[]): Promise<void> {
    const response = await this.#post(`[${commands}]`);
    if (response.status !== 200) return await this.#refused(response);
    const text = await response.text();
    const { replies } = JSON.parse(text) as { replies: Frame[] };
    for (const frame of replies) {
      if (!this.#stop.signal.aborted) this.#heard.frame(frame, bytesOf(JSON.stringify(frame)));
    }
    this.#over(CLOSE_ELSEWHERE, "the events are on another server");
  }

  async #post(body: string): Promise<Response> {
    const headers = { "content-type": "application/json" };
    const late = setTimeout(() => this.#over(CLOSE_LOST, "a command was not taken"), TAKEN_WITHIN_MS);
    try {
      return await this.#ask(new URL("v1/commands", this.#base), { method: "POST", body, headers });
    } finally {
      clearTimeout(late);
    }
  }

  // ------------------------------------------------------------------ requests

  #ask(address: URL, init: RequestInit & { headers: Record<string, string> }): Promise<Response> {
    const token = this.#token();
    const headers = token ? { ...init.headers, authorization: `Bearer ${token}` } : init.headers;
    const ask = this.#fetch; // a browser's own is no method of anything else
    return ask(address, { ...init, headers, cache: "no-store", signal: this.#stop.signal });
  }

  async #refused(response: Response): Promise<void> {
    let failure: Partial<Failure> = {};
    try {
      ({ error: failure = {} } = (await response.json()) as { error?: Partial<Failure> });
    } catch {
      // A proxy's page: the status says enough.
    }
    const reason = failure.code ? `${failure.code}: ${failure.message}` : `HTTP ${response.status}`;
    this.#over(CLOSE_OF_STATUS[response.status] ?? CLOSE_LOST, reason, failure.retry_after_ms ?? 0);
  }
}

/** `STREAM,EPOCH,OFFSET`, or `STREAM` for its start. */
function written({ stream, epoch, offset }: Resume): string {
  return offset ? `${stream},${epoch ?? 0},${offset}` : stream;
}
