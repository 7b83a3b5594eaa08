// The conversation as it is shown: the path that is looked at, and below it what is still to come.
//
// Views are known by the key of what they show: an answer's view is the same while it streams and as a message.  The
// log is drawn again when the session has changed; that an answer has grown is the matter of its own view.

import { queuedTurns } from "@everstream/client";
import type { PathItem, Request, SessionMessage, TreeNode, TurnState } from "@everstream/client";
import type { JSX } from "preact";
import { useCallback } from "preact/hooks";

import type { LogContext } from "../state/acts.ts";
import { useChanges } from "../state/changes.ts";
import type { Subscribe } from "../state/changes.ts";
import { Reply } from "./reply.tsx";
import { Pictures, SaidMessage, textIn } from "./said.tsx";

interface Props {
  context: LogContext;
}

export function Log({ context }: Props): JSX.Element {
  useChanges(useSession(context));
  const { path } = context.session;
  const shown = path.filter(({ node }) => node.message?.role !== "tool");
  const resultOf = (node: TreeNode, callId: string | null): SessionMessage | null => resultIn(path, node, callId);
  return (
    <div id="log" class="log" role="log" aria-live="off" aria-label="Conversation">
      {shown.map((item, place) => {
        const { key, message } = item.node;
        if (message?.role === "user") return <SaidMessage key={key} item={item} context={context} />;
        const isLast = place === shown.length - 1;
        return <Reply key={key} item={item} context={context} resultOf={resultOf} isLast={isLast} />;
      })}
    </div>
  );
}

/** What tells of changes of the session. */
function useSession({ session }: LogContext): Subscribe {
  return useCallback((changed) => session.on("change", changed), [session]);
}

/** The result of a call of the answer `node`: it stands in the path behind it, before any other answer. */
function resultIn(path: readonly PathItem[], answer: TreeNode, callId: string | null): SessionMessage | null {
  const from = path.findIndex(({ node }) => node === answer);
  for (const { node } of path.slice(from + 1)) {
    if (node.message?.role !== "tool") return null;
    if (node.message.call_id === callId) return node.message;
  }
  return null;
}

/** What is queued, and what was sent and is not seen in the session yet. */
export function Coming({ context }: Props): JSX.Element {
  useChanges(useSession(context));
  const { session } = context;
  const queued = queuedTurns(session.state);
  const known = new Set(queued.map(({ stream }) => stream));
  const requests = session.requests.filter(({ reply }) => !known.has(reply?.stream ?? ""));
  return (
    <div id="coming" class="log coming" role="group" aria-label="To come">
      {queued.map((turn, place) => (
        <Queued key={turn.stream} turn={turn} place={place} context={context} />
      ))}
      {requests.map((request) => (
        <Sent key={request.request_id} request={request} context={context} />
      ))}
    </div>
  );
}

interface QueuedProps {
  turn: TurnState;
  place: number;
  context: LogContext;
}

function Queued({ turn, place, context }: QueuedProps): JSX.Element {
  const { session, acts, several, maySend } = context;
  const anew = session.state.messages.find(({ id }) => id === turn.message);
  const isAgain = turn.content === undefined || turn.content === null;
  const text = isAgain ? `Again: ${textIn(anew?.content)}` : textIn(turn.content);
  const next = turn.interrupt ? "interrupts" : place === 0 ? "next" : `number ${place + 1}`;
  const whose = several ? `Queued by ${turn.user}` : "Queued";
  return (
    <article class="queued" data-stream={turn.stream}>
      <p class="queued-label">{`${whose}, ${next}, ${turn.model}`}</p>
      <Pictures content={turn.content} />
      <div class="text">{text}</div>
      {maySend && (
        <button type="button" class="plain remove" onClick={() => acts.removeQueued(turn)}>
          Remove
        </button>
      )}
    </article>
  );
}

interface SentProps {
  request: Request;
  context: LogContext;
}

function Sent({ request, context }: SentProps): JSX.Element {
  const { acts } = context;
  const { content, error } = request;
  return (
    <article class={error === null ? "pending" : "pending failed"}>
      <Pictures content={content} />
      <div class="text">{content === undefined ? "Answer again" : textIn(content)}</div>
      {error === null ? (
        <p class="queued-label">sending …</p>
      ) : (
        <>
          <p class="failure">
            <code>{error.code}</code> {error.message}
          </p>
          <div class="buttons">
            <button type="button" class="plain remove" onClick={() => acts.drop(request)}>
              Remove
            </button>
            <button type="button" class="plain again" onClick={() => acts.postAgain(request)}>
              Send again
            </button>
          </div>
        </>
      )}
    </article>
  );
}
