// The AI SDK's types, as far as the transport meets them (ai-sdk.dev/docs/ai-sdk-ui/stream-protocol).  They are written
// out, so that the package needs nothing of it: what is here is a part of what `ai` 6 and 7 say.

/** A message of a page; its parts are told apart by their `type`. */
export interface UiMessage {
  id: string;
  role: "system" | "user" | "assistant";
  parts: readonly { type: string }[];
}

interface NamedCall {
  toolCallId: string;
  toolName: string;
  /** The page has not declared such a tool. */
  dynamic?: boolean;
  title?: string;
  providerExecuted?: boolean;
}

export interface UiMetadata {
  /** The stream of the answer, for all else that can be done with one. */
  stream: string;
  usage?: { inputTokens: number; outputTokens: number; totalTokens: number };
  cost?: { input: number; output: number; total: number; currency?: string };
}

/** What an answer is sent to a page as. */
export type UiChunk =
  | { type: "start"; messageId: string; messageMetadata: UiMetadata }
  | { type: "start-step" | "finish-step" | "reset-step" }
  | { type: "text-start" | "text-end" | "reasoning-start" | "reasoning-end"; id: string }
  | { type: "text-delta" | "reasoning-delta"; id: string; delta: string }
  | ({ type: "tool-input-start" } & NamedCall)
  | { type: "tool-input-delta"; toolCallId: string; inputTextDelta: string }
  | ({ type: "tool-input-available"; input: unknown } & NamedCall)
  | ({ type: "tool-input-error"; input: unknown; errorText: string } & NamedCall)
  | { type: "tool-output-available"; toolCallId: string; output: unknown }
  | { type: "tool-output-error"; toolCallId: string; errorText: string }
  | { type: "tool-output-denied"; toolCallId: string }
  | { type: "file"; url: string; mediaType: string }
  | { type: "abort"; reason: string }
  | { type: "finish"; finishReason: UiFinish; messageMetadata: UiMetadata };

export type UiFinish = "stop" | "length" | "content-filter" | "tool-calls" | "other";
