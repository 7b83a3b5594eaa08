// What an answer says and how it stands: from its stream as far as that was read here, or from its message.

import { textOf } from "@everstream/client";
import type { CallMade, EndReason, HeldCall, Seam, StreamState, TreeNode } from "@everstream/client";

export type ReplyState = "live" | "waiting" | EndReason;

export interface Said {
  /** Another one means: what was shown before is void. */
  revision: string;
  text: string;
  thinking: string;
  refusal: string;
  seams: Seam[];
  tool_calls: readonly (HeldCall | CallMade)[];
  /** Whether it is a message: nothing will be added. */
  whole: boolean;
}

const NOTHING = { revision: 0, text: "", thinking: "", refusal: "", tool_calls: [], seams: [] };

/** "live", "waiting" (for results of tools), or how it ended.  A stream that is being read is shown to its end. */
export function stateOf({ message, turn }: TreeNode, stream: StreamState | null): ReplyState {
  if (message === null || (stream !== null && stream.offset > 0 && stream.end === null)) return "live";
  if (turn !== null) return turn.state === "waiting" ? "waiting" : "live";
  return message.reason ?? "complete";
}

/** What an answer says.  What was shown of it goes on growing when the message takes the stream's place. */
export function saidOf({ message }: TreeNode, stream: StreamState | null): Said {
  const read = stream ?? NOTHING;
  const { thinking, refusal, seams, tool_calls } = read;
  const revision = `${read.revision}`;
  if (message === null) return { revision, text: read.text, thinking, refusal, seams, tool_calls, whole: false };
  const text = textOf(message.content);
  return {
    // Parts of the text may have been withdrawn that are still shown.
    revision: text.startsWith(read.text) ? revision : "message",
    text: text || (refusal ? "" : read.text),
    thinking: message.thinking ?? thinking,
    refusal,
    seams,
    tool_calls: message.tool_calls ?? tool_calls,
    whole: true,
  };
}
