// What has come of a stream since the last look: a cursor on its state.  There is no queue: who looks seldom gets
// larger parts, and the state is all that is held.

import type { StreamEnd } from "./frames.ts";
import type { HeldCall, Seam, StreamState } from "./stream.ts";

export type Part =
  | { type: "text" | "thinking" | "refusal"; text: string }
  /** The next piece of a call's arguments. */
  | { type: "tool_call"; index: number; call_id: string | null; name: string | null; arguments: string }
  | ({ type: "seam" } & Seam)
  /** In place of all parts so far: a snapshot, or the answer was begun anew. */
  | { type: "replace"; text: string; thinking: string; refusal: string; tool_calls: HeldCall[] }
  | ({ type: "end" } & StreamEnd);

export class Cursor {
  #revision: string | null = null;
  #given = false;
  #text = 0;
  #thinking = 0;
  #refusal = 0;
  #seams = 0;
  #calls = new Map<number, number>(); // index -> length of the arguments

  /** The parts that are new; `revision` is another one where what was held before is void. */
  take(state: StreamState, revision: string): Part[] {
    const parts: Part[] = [];
    if (this.#revision !== revision) {
      if (this.#given) parts.push(this.#replaced(state));
      this.#revision = revision;
    }
    this.#takePlain("thinking", state.thinking, this.#thinking, parts);
    this.#thinking = state.thinking.length;
    this.#takeText(state, parts);
    this.#takePlain("refusal", state.refusal, this.#refusal, parts);
    this.#refusal = state.refusal.length;
    for (const call of state.tool_calls) this.#takeCall(call, parts);
    if (state.end !== null) parts.push({ type: "end", ...state.end });
    this.#given ||= parts.length > 0;
    return parts;
  }

  #replaced(state: StreamState): Part {
    const { text, thinking, refusal, tool_calls, seams } = state;
    this.#text = text.length;
    this.#thinking = thinking.length;
    this.#refusal = refusal.length;
    this.#seams = seams.length;
    this.#calls = new Map(tool_calls.map((call) => [call.index, call.arguments.length]));
    return { type: "replace", text, thinking, refusal, tool_calls: tool_calls.map((call) => ({ ...call })) };
  }

  #takePlain(type: "text" | "thinking" | "refusal", held: string, from: number, parts: Part[], to = held.length): void {
    if (to > from) parts.push({ type, text: held.slice(from, to) });
  }

  /** Text, with the seams where they stand in it. */
  #takeText({ text, seams }: StreamState, parts: Part[]): void {
    for (const seam of seams.slice(this.#seams)) {
      this.#takePlain("text", text, this.#text, parts, seam.at);
      this.#text = Math.max(this.#text, seam.at);
      parts.push({ type: "seam", ...seam });
    }
    this.#seams = seams.length;
    this.#takePlain("text", text, this.#text, parts);
    this.#text = text.length;
  }

  #takeCall(call: HeldCall, parts: Part[]): void {
    const from = this.#calls.get(call.index);
    if (from === call.arguments.length) return;
    this.#calls.set(call.index, call.arguments.length);
    parts.push({ type: "tool_call", ...call, arguments: call.arguments.slice(from ?? 0) });
  }
}
