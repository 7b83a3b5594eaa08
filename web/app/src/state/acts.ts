// What the views can have done.  They are given these, and know neither the connection nor where state is kept.

import type { Request, Session, StreamState, TreeNode, TurnState } from "@everstream/client";

export interface Acts {
  /** Look at the branch `key` below the node `above`. */
  choose(above: string, key: string): void;
  /** Say something else in place of `node`'s message: a branch beside it. */
  edit(node: TreeNode, text: string): void;
  /** Have what `node` answers answered once more. */
  regenerate(node: TreeNode): void;
  removeQueued(turn: TurnState): void;
  /** Forget a request that failed, or send it anew. */
  drop(request: Request): void;
  postAgain(request: Request): void;
  approve(stream: string, callId: string, approved: boolean, reason?: string): void;
  giveResult(stream: string, callId: string, content: string, isError: boolean): void;
  /** Say something to the reader; with `action`, a button that does it. */
  notice(text: string, action?: string, act?: () => void): void;
}

/** What the log shows beside the session itself. */
export interface LogContext {
  session: Session;
  acts: Acts;
  maySend: boolean;
  mayApprove: boolean;
  /** Whether several people are in it: then each message says whose it is. */
  several: boolean;
  /** "smooth": text appears word by word at an even pace; "raw": as it comes. */
  display: "raw" | "smooth";
  /** Tokens a second of a running answer as measured here, or null. */
  rateOf(stream: StreamState): number | null;
}
