// The classes of the client, as signatures; each moves to its own module with its body.

import type { CommandError } from "./errors.ts";
import type * as frames from "./frames.ts";
import type {
  Command,
  Content,
  Frame,
  Model,
  ReplyTo,
  Role,
  SessionInfo,
  StreamEnd,
  Welcome,
} from "./frames.ts";
import type {
  Chosen,
  ClientEvents,
  ClientOptions,
  ConnectionState,
  GenerateOptions,
  Position,
  Request,
  SessionOptions,
  Transport,
} from "./options.ts";
import type { Note, SessionState, TurnState } from "./session.ts";
import type { HeldCall, Seam, StreamState, Verdict } from "./stream.ts";
import type { PathItem, TreeNode } from "./tree.ts";

export type Part =
  | { type: "text" | "thinking" | "refusal"; text: string }
  | { type: "tool_call"; index: number; call_id: string | null; name: string | null; arguments: string }
  | ({ type: "seam" } & Seam)
  | { type: "replace"; text: string; thinking: string; refusal: string; tool_calls: HeldCall[] }
  | ({ type: "end" } & StreamEnd);

export interface Result {
  stream: string;
  text: string;
  thinking: string;
  refusal: string;
  tool_calls: HeldCall[];
  reason: frames.EndReason;
  finish_reason: StreamEnd["finish_reason"];
  usage: frames.Usage;
  cost: frames.Cost | null;
  metrics: frames.Metrics;
  error: frames.ErrorInfo | null;
  warnings: string[];
  end: StreamEnd;
}

export interface StreamEvents {
  change: { frame: Frame; verdict: Verdict };
  end: StreamEnd;
  error: CommandError;
}

export declare class Stream implements AsyncIterable<Part> {
  readonly id: string | null;
  readonly state: StreamState;
  readonly text: string;
  readonly thinking: string;
  readonly ended: boolean;
  readonly position: Position | null;
  readonly result: Promise<Result>;
  on<K extends keyof StreamEvents>(event: K, listener: (value: StreamEvents[K]) => void): () => void;
  [Symbol.asyncIterator](): AsyncIterator<Part>;
  textDeltas(): AsyncIterable<string>;
  cancel(): Promise<{ stream: string; offset: number }>;
}

export interface SavedSession {
  session: SessionState | null;
  choices: Record<string, string>;
  stopping: string[];
}

export interface SessionEvents {
  change: Record<string, never>;
  grown: { stream: StreamState; frame: Frame };
  made: { id: string; stream: string };
  ended: { frame: Extract<Frame, { type: "turn_end" }> };
  gone: { why: string };
  failed: { text: string };
}

export declare class Session {
  readonly id: string | null;
  readonly state: SessionState;
  readonly path: PathItem[];
  readonly requests: Request[];
  readonly typing: string[];
  readonly stopping: boolean;
  may(right: "send" | "approve" | "update" | "members" | "delete"): boolean;
  stream(id: string): StreamState | null;
  note(id: string): Note;
  on<K extends keyof SessionEvents>(event: K, listener: (value: SessionEvents[K]) => void): () => void;
  send(content: Content, chosen?: Chosen): void;
  edit(node: TreeNode, content: Content, chosen?: Chosen): void;
  regenerate(node: TreeNode, chosen?: Chosen): void;
  postAgain(request: Request, chosen?: Chosen): void;
  drop(request: Request): void;
  choose(above: string, key: string): void;
  stop(): void;
  removeQueued(turn: TurnState): void;
  approve(stream: string, call_id: string, approved: boolean, reason?: string): void;
  giveResult(stream: string, call_id: string, content: unknown, isError?: boolean): void;
  update(fields: { title?: string; system?: string; model?: string }): Promise<boolean>;
  addMember(user: string, role: Role): Promise<boolean>;
  removeMember(user: string): Promise<boolean>;
  exported(format: "json" | "markdown", message?: string): Promise<string | null>;
  earlier(): Promise<void>;
  type(typing: boolean): void;
  saved(): SavedSession;
  close(): void;
}

export declare class Client {
  constructor(options?: ClientOptions);
  readonly state: ConnectionState;
  readonly transport: Transport | null;
  readonly welcome: Welcome | null;
  on<K extends keyof ClientEvents>(event: K, listener: (value: ClientEvents[K]) => void): () => void;
  open(): void;
  close(): void;
  wake(): void;
  renew(token: string): Promise<void>;
  request<C extends Command>(command: C): Promise<ReplyTo<C>>;
  send(command: Command): boolean;
  generate(options: GenerateOptions): Stream;
  subscribe(place: string | Position): Stream;
  models(): Promise<Model[]>;
  sessions(options?: { limit?: number; before?: string }): Promise<{ sessions: SessionInfo[]; next: string | null }>;
  createSession(options?: SessionOptions): Promise<Session>;
  session(id: string | null, saved?: SavedSession): Session;
  deleteSession(id: string): Promise<void>;
}
