// The frames of the protocol.  Made from the server's types by `python -m tests.house.client_frames`: do not edit.
//
// Keys that are not named here, and frames of an unknown `type`, are of a later version: they are to be ignored.

/** What a command may fail with. */
export type ErrorCode =
  | "protocol.bad_frame"
  | "protocol.unknown_type"
  | "protocol.hello_expected"
  | "protocol.too_large"
  | "auth.required"
  | "auth.denied"
  | "auth.forbidden"
  | "request.invalid"
  | "request.not_found"
  | "stream.unknown"
  | "session.unknown"
  | "session.busy"
  | "model.unknown"
  | "limit.rate"
  | "limit.streams"
  | "limit.budget"
  | "node.draining"
  | "store.unavailable"
  | "provider.auth"
  | "provider.rate_limit"
  | "provider.overloaded"
  | "provider.timeout"
  | "provider.connection"
  | "provider.invalid"
  | "provider.content_filter"
  | "provider.unknown"
  | "internal";

export type ContentPart = TextPart | ImagePart;

export type Content = string | ContentPart[];

export type Role = "editor" | "owner" | "viewer";

export type EndReason = "budget" | "cancelled" | "complete" | "failed" | "interrupted";

export interface ApprovalGiven {
  call_id: string;
  approved: boolean;
  reason?: string | null;
}

/** What one run at a provider used. `cost` is null where the model's price is not known. */
export interface Attempt {
  model: string;
  usage: Usage;
  cost: Cost | null;
}

export interface Budget {
  output_tokens?: number | null;
  usd?: number | null;
}

/** A tool call of an answer. `server`: the server runs it; `approval`: somebody has to allow it first. */
export interface CallMade {
  call_id: string;
  name: string;
  arguments: string;
  server?: boolean;
  approval?: boolean;
}

/** A tool call as far as it has been said. */
export interface CalledTool {
  index: number;
  call_id: string | null;
  name: string | null;
  arguments: string;
}

export interface Cost {
  input: number;
  output: number;
  total: number;
  currency?: string;
}

export interface ErrorInfo {
  code: string;
  message: string;
  retryable: boolean;
  retry_after_ms?: number | null;
}

/** The offset of a stream's end: no entry after it exists, or will. */
export interface Fence {
  stream: string;
  offset: number;
}

/** An image by address, or inline as base64 `data` with its `media_type`. */
export interface ImagePart {
  type: "image";
  url?: string | null;
  data?: string | null;
  media_type?: string | null;
}

export interface Limits {
  frame_bytes: number;
  streams: number;
  sessions: number;
  commands: number;
}

export interface MemberGiven {
  user: string;
  role: Role;
}

export interface MemberShown {
  user: string;
  role: Role;
}

export interface Message {
  role: "assistant" | "system" | "tool" | "user";
  content: Content;
  tool_calls?: ToolCall[] | null;
  call_id?: string | null;
  is_error?: boolean;
}

/** Milliseconds from the request; `stream_ms` is from the first to the last token. */
export interface Metrics {
  ttft_ms: number | null;
  stream_ms: number | null;
  total_ms: number;
  tokens_per_s: number | null;
}

/** A model as the `models` command shows it. `why_not` says what to do when it is not usable. */
export interface Model {
  id: string;
  usable: boolean;
  continuation: "exact" | "prefill" | "prompted" | "restart" | null;
  why_not?: string | null;
  thinking?: boolean | null;
  tools?: boolean | null;
  images?: boolean | null;
  window?: number | null;
}

/** The parameters that mean the same with every provider. Others travel beside them, untouched. */
export interface Params {
  max_tokens?: number | null;
  temperature?: number | null;
  top_p?: number | null;
  stop?: string | string[] | null;
  seed?: number | null;
  system?: string | null;
  tools?: Tool[] | null;
  tool_choice?: string | Record<string, unknown> | null;
  thinking?: boolean | string | Record<string, unknown> | null;
  [name: string]: unknown;
}

/** `content` is text, or any JSON. */
export interface ResultGiven {
  call_id: string;
  content: unknown;
  is_error?: boolean;
}

/** A place in a stream that the client holds already. */
export interface Resume {
  stream: string;
  epoch?: number | null;
  offset?: number | null;
}

/** A session in a list; `members` counts them. */
export interface SessionInfo {
  session: string;
  title: string;
  model: string;
  role: Role;
  created: number;
  updated: number;
  members: number;
}

/**
 * A message of the tree. `parent` null: a first one. `author`: a user's id, a model's, or who gave a result. An answer
 * has the `stream` it came by, and a `reason` where it is not whole.
 */
export interface SessionMessage {
  id: string;
  parent: string | null;
  role: "assistant" | "tool" | "user";
  author: string;
  content: Content;
  created: number;
  stream?: string | null;
  tool_calls?: CallMade[] | null;
  call_id?: string | null;
  is_error?: boolean;
  thinking?: string | null;
  reason?: EndReason | null;
}

export interface StreamEnd {
  reason: EndReason;
  finish_reason: "content_filter" | "length" | "stop" | "tool_calls" | null;
  usage: Usage;
  cost: Cost | null;
  metrics: Metrics;
  error: ErrorInfo | null;
  warnings: string[];
  attempts?: Attempt[] | null;
}

export interface TextPart {
  type: "text";
  text: string;
}

/** A function the model may ask for; `parameters` is a JSON Schema. */
export interface Tool {
  name: string;
  description?: string;
  parameters?: Record<string, unknown>;
}

/** A finished tool call; `arguments` is JSON text. */
export interface ToolCall {
  call_id: string;
  name: string;
  arguments: string;
}

/** A turn that has not ended. */
export interface TurnShown {
  turn: string;
  stream: string;
  epoch: number;
  model: string;
  message: string;
  user: string;
  state: "queued" | "running" | "waiting";
  request_id?: string | null;
  left_out?: number;
  content?: Content | null;
  parent?: string | null;
  follows?: boolean;
  interrupt?: boolean;
  missing?: string[];
  started?: string[];
}

export interface Usage {
  input_tokens: number;
  output_tokens: number;
  total_tokens: number;
  source: "estimated" | "provider";
  thinking_tokens?: number | null;
  cached_tokens?: number | null;
}

/** Somebody who has a session open; `connections` counts devices. */
export interface UserPresent {
  id: string;
  name: string;
  connections: number;
}

export interface UserShown {
  id: string;
  name: string;
}

// --------------------------------------------------------------------------- What a client says.

export interface HelloCommand {
  type: "hello";
  id?: string | number;
  token?: string | null;
  client?: string | null;
  resume?: Resume[];
}

/** Of a whole history (`messages`), or in a session. `parent` null is not the same as none. */
export interface GenerateCommand {
  type: "generate";
  id?: string | number;
  request_id?: string | null;
  model?: string | null;
  messages?: Message[] | null;
  session?: string | null;
  content?: Content | null;
  parent?: string | null;
  params?: Params | null;
  budget?: Budget | null;
  on_busy?: "interrupt" | "parallel" | "queue" | "reject";
}

export interface CancelCommand {
  type: "cancel";
  id?: string | number;
  stream?: string | null;
  session?: string | null;
}

export interface SubscribeCommand {
  type: "subscribe";
  id?: string | number;
  stream: string;
  epoch?: number | null;
  offset?: number | null;
}

export interface UnsubscribeCommand {
  type: "unsubscribe";
  id?: string | number;
  stream: string;
}

export interface SessionCreateCommand {
  type: "session.create";
  id?: string | number;
  title?: string | null;
  system?: string | null;
  model?: string | null;
  members?: MemberGiven[];
  request_id?: string | null;
}

export interface SessionOpenCommand {
  type: "session.open";
  id?: string | number;
  session: string;
  epoch?: number | null;
  offset?: number | null;
  history?: number;
  responses?: Resume[];
}

export interface SessionCloseCommand {
  type: "session.close";
  id?: string | number;
  session: string;
}

export interface SessionUpdateCommand {
  type: "session.update";
  id?: string | number;
  session: string;
  title?: string | null;
  system?: string | null;
  model?: string | null;
}

export interface SessionDeleteCommand {
  type: "session.delete";
  id?: string | number;
  session: string;
}

export interface SessionListCommand {
  type: "session.list";
  id?: string | number;
  limit?: number;
  before?: string | null;
}

export interface SessionHistoryCommand {
  type: "session.history";
  id?: string | number;
  session: string;
  before?: string | null;
  limit?: number;
}

export interface SessionExportCommand {
  type: "session.export";
  id?: string | number;
  session: string;
  format?: "json" | "markdown";
  message?: string | null;
}

export interface MemberAddCommand {
  type: "member.add";
  id?: string | number;
  session: string;
  user: string;
  role?: Role;
}

export interface MemberRemoveCommand {
  type: "member.remove";
  id?: string | number;
  session: string;
  user: string;
}

export interface ToolResultCommand {
  type: "tool_result";
  id?: string | number;
  session: string;
  stream: string;
  results: ResultGiven[];
}

export interface ToolApprovalCommand {
  type: "tool_approval";
  id?: string | number;
  session: string;
  stream: string;
  approvals: ApprovalGiven[];
}

export interface TypingCommand {
  type: "typing";
  id?: string | number;
  session: string;
  typing: boolean;
}

export interface AuthCommand {
  type: "auth";
  id?: string | number;
  token: string;
}

export interface ModelsCommand {
  type: "models";
  id?: string | number;
}

/** Whatever fields a client likes: the answer has the same. */
export interface PingCommand {
  type: "ping";
  id?: string | number;
  [name: string]: unknown;
}

// --------------------------------------------------------------------------- What a command is answered with; or by `ErrorFrame`.

export interface Welcome {
  type: "welcome";
  protocol: number;
  connection: string;
  node: string;
  user: UserShown;
  heartbeat_ms: number;
  limits: Limits;
  id?: string | number;
}

/** Something was set going: read it in `stream`. */
export interface Accepted {
  type: "accepted";
  stream: string;
  epoch: number;
  session?: string | null;
  turn?: string | null;
  message?: string | null;
  id?: string | number;
}

export interface Cancelled {
  type: "cancelled";
  streams: Fence[];
  id?: string | number;
}

/** The reader's place, how far the stream goes, and whether it has ended. */
export interface Subscribed {
  type: "subscribed";
  stream: string;
  epoch: number;
  offset: number;
  tail: number;
  status: "ended" | "open";
  id?: string | number;
}

/** All of a stream up to `upto`: it replaces what the client holds. */
export interface Snapshot {
  type: "snapshot";
  stream: string;
  epoch: number;
  upto: number;
  status: "ended" | "open";
  text: string;
  thinking: string;
  tool_calls: CalledTool[];
  end: StreamEnd | null;
  refusal?: string | null;
  id?: string | number;
}

/** A session as of `upto`: it replaces what the client holds. */
export interface SessionSnapshot {
  type: "snapshot";
  session: string;
  title: string;
  system: string;
  model: string;
  created: number;
  role: Role | null;
  members: MemberShown[];
  messages: SessionMessage[];
  more: boolean;
  running: TurnShown[];
  epoch: number;
  offset: number;
  users: UserPresent[];
  stream: string;
  upto: number;
  status: "ended" | "open";
  id?: string | number;
}

/** It was done, and there is no more to be said of it. */
export interface Done {
  type: "ok";
  id?: string | number;
}

export interface SessionMade {
  type: "ok";
  session: string;
  id?: string | number;
}

/** A session as of now, and who has it open. */
export interface SessionOpened {
  type: "ok";
  session: string;
  title: string;
  system: string;
  model: string;
  created: number;
  role: Role | null;
  members: MemberShown[];
  messages: SessionMessage[];
  more: boolean;
  running: TurnShown[];
  epoch: number;
  offset: number;
  users: UserPresent[];
  id?: string | number;
}

/** The session that was last used first; `next` is the `before` of the next page, or null. */
export interface SessionsListed {
  type: "ok";
  sessions: SessionInfo[];
  next: string | null;
  id?: string | number;
}

/** Oldest first; `more`: there are earlier ones. */
export interface MessagesListed {
  type: "ok";
  session: string;
  messages: SessionMessage[];
  more: boolean;
  id?: string | number;
}

export interface SessionExported {
  type: "ok";
  session: string;
  format: "json" | "markdown";
  content: string;
  id?: string | number;
}

/** A turn was set going, or goes on: its answer is read in `stream`. */
export interface TurnAccepted {
  type: "accepted";
  session: string;
  turn: string;
  message: string;
  stream: string;
  epoch: number;
  id?: string | number;
}

/** Results were taken; these calls have none yet. */
export interface ResultsMissing {
  type: "ok";
  session: string;
  turn: string;
  missing: string[];
  id?: string | number;
}

export interface ModelsListed {
  type: "ok";
  models: Model[];
  id?: string | number;
}

/** Whatever fields a client likes: the answer has the same. */
export interface Pong {
  type: "pong";
  id?: string | number;
  [name: string]: unknown;
}

// --------------------------------------------------------------------------- An entry of a response stream, or several that came together.

export interface RequestStartEntry {
  type: "request_start";
  model: string;
  at: number;
  session?: string | null;
  turn?: string | null;
  epoch?: number;
  after: number;
  upto: number;
  stream: string;
}

export interface HeadersReceivedEntry {
  type: "headers_received";
  at: number;
  after: number;
  upto: number;
  stream: string;
}

export interface FirstTokenEntry {
  type: "first_token";
  ttft_ms: number;
  after: number;
  upto: number;
  stream: string;
}

export interface DeltaTextEntry {
  type: "delta_text";
  text: string;
  after: number;
  upto: number;
  stream: string;
}

export interface DeltaThinkingEntry {
  type: "delta_thinking";
  text: string;
  after: number;
  upto: number;
  stream: string;
}

/** A piece of one tool call: pieces of the same `index` belong together. */
export interface DeltaToolCallEntry {
  type: "delta_tool_call";
  index: number;
  arguments: string;
  call_id?: string | null;
  name?: string | null;
  after: number;
  upto: number;
  stream: string;
}

export interface DeltaRefusalEntry {
  type: "delta_refusal";
  text: string;
  after: number;
  upto: number;
  stream: string;
}

/**
 * From here another node, or another call, carries on. `continuation` null: only `stream_end` follows. `model` is set
 * where another model carries on than the one before.
 */
export interface SeamEntry {
  type: "seam";
  epoch: number;
  attempt: number;
  reason: "drain" | "node_lost" | "provider_lost";
  continuation: "exact" | "prefill" | "prompted" | "restart" | null;
  check: "heuristic" | "unverified" | "verified" | null;
  node: string;
  model?: string | null;
  after: number;
  upto: number;
  stream: string;
}

export interface LastTokenEntry {
  type: "last_token";
  after: number;
  upto: number;
  stream: string;
}

export interface StreamEndEntry {
  type: "stream_end";
  reason: EndReason;
  finish_reason: "content_filter" | "length" | "stop" | "tool_calls" | null;
  usage: Usage;
  cost: Cost | null;
  metrics: Metrics;
  error: ErrorInfo | null;
  warnings: string[];
  attempts?: Attempt[] | null;
  after: number;
  upto: number;
  stream: string;
}

// --------------------------------------------------------------------------- An entry of a session.

/**
 * The first entry of a session (`created`), and each change of what it says about itself. "" clears a field. `epoch`:
 * another leader says what follows, and this is its reign.
 */
export interface SessionChangedEntry {
  type: "session";
  title?: string | null;
  system?: string | null;
  model?: string | null;
  created?: number | null;
  deleted?: boolean;
  epoch?: number | null;
  by?: string | null;
  session: string;
  after: number;
  upto: number;
  stream: string;
}

/** Somebody has this role from now on; null: he is no member. */
export interface MemberChangedEntry {
  type: "member";
  user: string;
  role: Role | null;
  by?: string | null;
  session: string;
  after: number;
  upto: number;
  stream: string;
}

export interface MessageAddedEntry {
  type: "message";
  message: SessionMessage;
  session: string;
  after: number;
  upto: number;
  stream: string;
}

/**
 * A turn waits for others to end. Its message becomes an entry when it starts. `content` null: it answers `message`
 * anew, which is there already. `parent` is where the message is to go; with `follows` it goes behind whatever is the
 * end of the newest path by then.
 */
export interface TurnQueuedEntry {
  type: "turn_queued";
  turn: string;
  position: number;
  stream: string;
  model: string;
  user: string;
  message: string;
  content?: Content | null;
  parent?: string | null;
  follows?: boolean;
  interrupt?: boolean;
  request_id?: string | null;
  session: string;
  after: number;
  upto: number;
}

/** A stream begins to answer `message`: the first of its turn, or one that goes on after results of tools. */
export interface TurnStartEntry {
  type: "turn_start";
  turn: string;
  stream: string;
  model: string;
  message: string;
  user: string;
  request_id?: string | null;
  left_out?: number;
  session: string;
  after: number;
  upto: number;
}

/** The server begins to run a tool; `user` has approved it, or null. */
export interface ToolStartEntry {
  type: "tool_start";
  turn: string;
  stream: string;
  call_id: string;
  user: string | null;
  session: string;
  after: number;
  upto: number;
}

/** `message` is the answer's; null where the turn had not begun. */
export interface TurnEndEntry {
  type: "turn_end";
  turn: string;
  stream: string;
  reason: EndReason;
  message: string | null;
  by?: string | null;
  finish_reason?: "content_filter" | "length" | "stop" | "tool_calls" | null;
  usage?: Usage | null;
  cost?: Cost | null;
  error?: ErrorInfo | null;
  session: string;
  after: number;
  upto: number;
}

// --------------------------------------------------------------------------- What the server says by itself, beside entries.

/** `stream` or `session`: what could not be read. */
export interface ErrorFrame {
  type: "error";
  code: ErrorCode;
  message: string;
  retryable: boolean;
  retry_after_ms?: number | null;
  stream?: string | null;
  session?: string | null;
  id?: string | number;
}

/** It was done, and there is no more to be said of it. */
export interface Heartbeat {
  type: "heartbeat";
}

/** Connect anew at a time of your own within `after_ms`. */
export interface Goaway {
  type: "goaway";
  after_ms: number;
  reason: string;
}

export interface Presence {
  type: "presence";
  session: string;
  users: UserPresent[];
}

export interface TypingShown {
  type: "typing";
  session: string;
  user: string;
  typing: boolean;
}

/** What a client says. */
export type Command =
  | HelloCommand
  | GenerateCommand
  | CancelCommand
  | SubscribeCommand
  | UnsubscribeCommand
  | SessionCreateCommand
  | SessionOpenCommand
  | SessionCloseCommand
  | SessionUpdateCommand
  | SessionDeleteCommand
  | SessionListCommand
  | SessionHistoryCommand
  | SessionExportCommand
  | MemberAddCommand
  | MemberRemoveCommand
  | ToolResultCommand
  | ToolApprovalCommand
  | TypingCommand
  | AuthCommand
  | ModelsCommand
  | PingCommand;

/** What a command is answered with; or by `ErrorFrame`. */
export type Reply =
  | Welcome
  | Accepted
  | Cancelled
  | Subscribed
  | Snapshot
  | SessionSnapshot
  | Done
  | SessionMade
  | SessionOpened
  | SessionsListed
  | MessagesListed
  | SessionExported
  | TurnAccepted
  | ResultsMissing
  | ModelsListed
  | Pong;

/** An entry of a response stream, or several that came together. */
export type Entry =
  | RequestStartEntry
  | HeadersReceivedEntry
  | FirstTokenEntry
  | DeltaTextEntry
  | DeltaThinkingEntry
  | DeltaToolCallEntry
  | DeltaRefusalEntry
  | SeamEntry
  | LastTokenEntry
  | StreamEndEntry;

/** An entry of a session. */
export type SessionEntry =
  | SessionChangedEntry
  | MemberChangedEntry
  | MessageAddedEntry
  | TurnQueuedEntry
  | TurnStartEntry
  | ToolStartEntry
  | TurnEndEntry;

/** What the server says by itself, beside entries. */
export type OtherFrame = ErrorFrame | Heartbeat | Goaway | Presence | TypingShown;

/** What a frame may say of what it is about: every frame is one of these. */
export interface Envelope {
  type: string;
  id?: string | number;
  stream?: string | null;
  session?: string | null;
  epoch?: number | null;
  after?: number;
  upto?: number;
}

/**
 * A frame of a later version.  Its `type` is any other text; this one stands for all of them, so that a `switch` on
 * `type` tells the known ones apart.
 */
export interface UnknownFrame extends Envelope {
  type: "of a later version";
}

export type KnownFrame = Reply | Entry | SessionEntry | OtherFrame;

/** What a server sends. */
export type Frame = (KnownFrame & Envelope) | UnknownFrame;

/** What each command is answered with. */
export interface Replies {
  hello: Welcome;
  generate: Accepted;
  cancel: Cancelled;
  subscribe: Subscribed | Snapshot | SessionSnapshot;
  unsubscribe: Done;
  "session.create": SessionMade;
  "session.open": SessionOpened;
  "session.close": Done;
  "session.update": Done;
  "session.delete": Done;
  "session.list": SessionsListed;
  "session.history": MessagesListed;
  "session.export": SessionExported;
  "member.add": Done;
  "member.remove": Done;
  tool_result: TurnAccepted | ResultsMissing;
  tool_approval: Done;
  typing: never;
  auth: Done;
  models: ModelsListed;
  ping: Pong;
}

export type ReplyTo<C extends Command> = Replies[C["type"]];
