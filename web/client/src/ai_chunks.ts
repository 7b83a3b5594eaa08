// A response stream as the AI SDK's UI message stream.
//
//   start > start-step > (reasoning | text | tool input)... > finish-step > finish
//
// A part begins with its first piece and ends before the next part's.  `start` waits for the first piece: so no empty
// answer stands under a question that is refused.  A page that resumes empties its message at `start` and is sent all
// of the answer anew; whatever is withdrawn later (an answer run again, a snapshot) is withdrawn by `reset-step`.  A
// page that empties its message would lose what an earlier answer put into it, where this one goes on after results of
// tools: so the `earlier` chunks are sent again, too.

import type { UiChunk, UiFinish } from "./ai_types.ts";
import { CommandError } from "./errors.ts";
import type { DeltaToolCallEntry, Frame, StreamEnd } from "./frames.ts";
import { Verdict } from "./stream.ts";
import type { HeldCall, StreamState } from "./stream.ts";

const FINISHES: Record<string, UiFinish> = {
  stop: "stop",
  length: "length",
  content_filter: "content-filter",
  tool_calls: "tool-calls",
};

export interface ChunksOptions {
  /** The page's message that the answer goes on in; "": one of its own. */
  message: string;
  /** The tools that the page has declared: any other is a dynamic one. */
  tools: readonly string[];
  /** What that message holds already. */
  earlier: readonly UiChunk[];
}

interface Call {
  id: string;
  name: string;
  arguments: string;
  /** How many characters of the arguments were sent. */
  told: number;
  begun: boolean;
}

/** One reader's view of one stream. */
export class Chunks {
  /** What the answer failed with; known once its end was taken. */
  failure: CommandError | null = null;
  #options: ChunksOptions;
  #replays: boolean;
  #stream = "";
  #held: StreamState | null = null;
  #revision = 0;
  #begun = false;
  #parts = 0;
  #open: { kind: "text" | "reasoning"; id: string } | null = null;
  #calls = new Map<number, Call>();

  /** `replays`: the page comes back, and has none of what an earlier answer put into its message. */
  constructor(options: ChunksOptions, replays: boolean) {
    this.#options = options;
    this.#replays = replays;
  }

  /** What is new, where `frame` has just been taken into `state`; without a frame, all that there is. */
  take(state: StreamState, frame?: Frame, verdict?: Verdict): UiChunk[] {
    if (state === this.#held && state.revision === this.#revision) {
      return frame !== undefined && verdict === Verdict.APPLIED ? this.#entry(frame) : [];
    }
    const withdrawn: UiChunk[] = this.#begun ? [{ type: "reset-step" }] : [];
    this.#stream = state.id;
    this.#held = state;
    this.#revision = state.revision;
    this.#open = null;
    this.#calls.clear();
    return [...withdrawn, ...this.#whole(state)];
  }

  #whole({ thinking, text, refusal, tool_calls, end }: StreamState): UiChunk[] {
    const chunks = [...this.#piece("reasoning", thinking), ...this.#piece("text", text + refusal)];
    for (const call of tool_calls) chunks.push(...this.#call(call));
    return end === null ? chunks : [...chunks, ...this.#end(end)];
  }

  #entry(frame: Frame): UiChunk[] {
    switch (frame.type) {
      case "delta_text":
      case "delta_refusal":
        return this.#piece("text", frame.text);
      case "delta_thinking":
        return this.#piece("reasoning", frame.text);
      case "delta_tool_call":
        return this.#call(frame);
      case "stream_end":
        return this.#end(frame);
      default:
        return [];
    }
  }

  #start(): UiChunk[] {
    if (this.#begun) return [];
    this.#begun = true;
    const { message, earlier } = this.#options;
    const messageMetadata = { stream: this.#stream };
    const start = { type: "start", messageId: message || this.#stream, messageMetadata } as const;
    return [start, ...(this.#replays ? earlier : []), { type: "start-step" }];
  }

  #piece(kind: "text" | "reasoning", delta: string): UiChunk[] {
    if (delta === "") return [];
    const chunks = this.#start();
    if (this.#open?.kind !== kind) {
      chunks.push(...this.#close());
      this.#parts += 1;
      this.#open = { kind, id: `${kind}-${this.#parts}` };
      chunks.push({ type: `${kind}-start`, id: this.#open.id });
    }
    chunks.push({ type: `${kind}-delta`, id: this.#open.id, delta });
    return chunks;
  }

  #close(): UiChunk[] {
    if (this.#open === null) return [];
    const { kind, id } = this.#open;
    this.#open = null;
    return [{ type: `${kind}-end`, id }];
  }

  /** A piece of a call.  A part's type is its tool's name, so nothing is told before that is known. */
  #call(said: DeltaToolCallEntry | HeldCall): UiChunk[] {
    const chunks = [...this.#start(), ...this.#close()];
    const call = this.#calls.get(said.index) ?? { id: "", name: "", arguments: "", told: 0, begun: false };
    this.#calls.set(said.index, call);
    call.name ||= said.name ?? "";
    if (!call.begun) call.id = said.call_id || call.id || `call_${said.index}`;
    call.arguments += said.arguments;
    if (call.name === "") return chunks;
    if (!call.begun) chunks.push({ type: "tool-input-start", ...this.#named(call) });
    call.begun = true;
    const inputTextDelta = call.arguments.slice(call.told);
    call.told = call.arguments.length;
    if (inputTextDelta !== "") chunks.push({ type: "tool-input-delta", toolCallId: call.id, inputTextDelta });
    return chunks;
  }

  #named({ id, name }: Call): { toolCallId: string; toolName: string; dynamic?: boolean } {
    const named = { toolCallId: id, toolName: name };
    return this.#options.tools.includes(name) ? named : { ...named, dynamic: true };
  }

  /** A page acts on a call that it is told is whole, or wrong: so neither is said of one that was cut off. */
  #end({ reason, finish_reason, error, usage, cost }: StreamEnd): UiChunk[] {
    if (reason === "cancelled") return [...this.#close(), { type: "abort", reason: "stopped" }];
    if (error !== null || reason === "interrupted") {
      this.failure = new CommandError(error ?? { code: "provider.connection", message: "The answer broke off." });
      return this.#close();
    }
    const finishReason = reason === "budget" ? "length" : (FINISHES[finish_reason ?? "stop"] ?? "other");
    const { input_tokens: inputTokens, output_tokens: outputTokens, total_tokens: totalTokens } = usage;
    const used = { stream: this.#stream, usage: { inputTokens, outputTokens, totalTokens } };
    return [
      ...this.#start(),
      ...this.#close(),
      ...[...this.#calls.values()].map((call) => this.#input(call, finishReason !== "length")),
      { type: "finish-step" },
      { type: "finish", finishReason, messageMetadata: cost === null ? used : { ...used, cost } },
    ];
  }

  /** A call whose last piece has come. */
  #input(call: Call, isWhole: boolean): UiChunk {
    const named = this.#named(call);
    const wrong = (errorText: string): UiChunk => {
      return { type: "tool-input-error", ...named, input: call.arguments, errorText };
    };
    if (!isWhole) return wrong("the answer ended before the call was whole");
    try {
      return { type: "tool-input-available", ...named, input: JSON.parse(call.arguments || "{}") as unknown };
    } catch {
      return wrong("the model's arguments are no valid JSON");
    }
  }
}
