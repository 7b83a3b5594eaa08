// An answer: what its stream has brought, or, where that was not read here, its message.
//
// It listens to its own stream, so a frame of the screen in which only that has grown draws nothing else.  When the
// text is withdrawn (`revision`), what was shown is void and its views begin anew.

import type { ErrorInfo, PathItem, StreamState } from "@everstream/client";
import type { JSX } from "preact";
import { useCallback, useEffect, useState } from "preact/hooks";

import type { LogContext } from "../state/acts.ts";
import { useChanges } from "../state/changes.ts";
import type { Subscribe } from "../state/changes.ts";
import { Branches } from "./branches.tsx";
import { CopyButton } from "./copy.tsx";
import { Figures } from "./figures.tsx";
import { Markdown } from "./markdown.tsx";
import { Plain } from "./plain.tsx";
import { saidOf, stateOf } from "./said_of.ts";
import type { ReplyState, Said } from "./said_of.ts";
import { useShown } from "./shown.ts";
import { Thinking } from "./thinking.tsx";
import { Tool } from "./tools.tsx";
import type { ResultOf } from "./tools.tsx";

const TICK_MS = 200; // how often figures move while nothing arrives
const WHOLE: ReadonlySet<ReplyState> = new Set(["complete", "budget"]);

interface Props {
  item: PathItem;
  context: LogContext;
  resultOf: ResultOf;
  isLast: boolean;
}

export function Reply({ item, context, resultOf, isLast }: Props): JSX.Element {
  const { session, acts } = context;
  const { node } = item;
  useChanges(useGrowing(context, node.key));
  const stream = session.stream(node.key);
  const said = saidOf(node, stream);
  const state = stateOf(node, stream);
  // The end of an answer may still be on its way to the eye, unless something else stands behind it by now.
  const flows = state === "live" || (isLast && WHOLE.has(state));
  const shown = useShown(said.text, state === "live", flows && context.display === "smooth", said.revision);
  const live = state === "live" || (flows && context.display === "smooth" && shown < said.text.length);
  useTicking(live);
  return (
    <article class="reply" data-state={live ? "live" : state} aria-busy={live}>
      <h3 class="author unseen">{node.message?.author ?? node.turn?.model ?? ""}</h3>
      <Body
        key={said.revision}
        said={said}
        shown={shown}
        live={live}
        item={item}
        context={context}
        resultOf={resultOf}
      />
      <Failure error={stream?.end?.error ?? session.note(node.key).error ?? null} />
      <div class="foot">
        <ReplyFigures item={item} context={context} stream={stream} live={live} />
        {said.text !== "" && !live && <CopyButton text={() => said.text} what="Copy this answer as Markdown" />}
        <Branches item={item} choose={acts.choose} />
        <button
          type="button"
          class="quiet again"
          title="Have it answered once more, by the model that is chosen below"
          hidden={!(node.message !== null && node.turn === null && context.maySend)}
          onClick={() => acts.regenerate(node)}
        >
          Regenerate
        </button>
      </div>
    </article>
  );
}

/** What tells of the growth of the stream `key`. */
function useGrowing({ session }: LogContext, key: string): Subscribe {
  return useCallback(
    (changed) => session.on("grown", ({ stream }) => void (stream.id === key && changed())),
    [session, key],
  );
}

/** Draw again from time to time while `live`: durations go on. */
function useTicking(live: boolean): void {
  const [, draw] = useState(0);
  useEffect(() => {
    if (!live) return;
    const timer = setInterval(() => draw((count) => count + 1), TICK_MS);
    return () => clearInterval(timer);
  }, [live]);
}

interface BodyProps {
  said: Said;
  shown: number;
  live: boolean;
  item: PathItem;
  context: LogContext;
  resultOf: ResultOf;
}

function Body({ said, shown, live, item, context, resultOf }: BodyProps): JSX.Element {
  const { text, thinking, refusal, seams } = said;
  const thinks = live && text === "" && refusal === "" && said.tool_calls.length === 0;
  const isPart = live || shown < text.length;
  const placed = seams.filter(({ at }) => at <= shown);
  return (
    <div class="body">
      {thinking !== "" && <Thinking key="thinking" text={thinking} thinks={thinks} />}
      {(text !== "" || seams.length > 0) && (
        <div key="answer" class="text answer">
          <Markdown text={text.slice(0, shown)} live={isPart} seams={placed} />
        </div>
      )}
      {refusal !== "" && (
        <div key="refusal" class="text refusal">
          <Plain text={refusal} />
        </div>
      )}
      {said.tool_calls.map((call, place) => (
        <Tool key={place} call={call} node={item.node} context={context} resultOf={resultOf} />
      ))}
    </div>
  );
}

function Failure({ error }: { error: ErrorInfo | null }): JSX.Element | null {
  if (error === null) return null;
  return (
    <p class="failure">
      <code>{error.code}</code> {error.message}
    </p>
  );
}

interface FootProps {
  item: PathItem;
  context: LogContext;
  stream: StreamState | null;
  live: boolean;
}

function ReplyFigures({ item, context, stream, live }: FootProps): JSX.Element {
  const { session } = context;
  const { key, message, turn } = item.node;
  const note = session.note(key);
  return (
    <Figures
      stream={stream}
      message={message}
      live={live}
      stopping={session.stopping}
      note={note}
      by={note.by && note.by !== session.state.me ? note.by : ""}
      model={message?.author ?? turn?.model ?? ""}
      rate={stream === null ? null : context.rateOf(stream)}
    />
  );
}
