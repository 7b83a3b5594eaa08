// A tool call in an answer: its name and arguments, what a member can do about it, and the result, folded away.

import { textOf } from "@everstream/client";
import type { CallMade, HeldCall, SessionMessage, TreeNode } from "@everstream/client";
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import type { LogContext } from "../state/acts.ts";
import { Plain } from "./plain.tsx";

const PRETTY_MOST = 20_000; // characters of arguments that are laid out

/** The result of a call of the answer `node`, where there is one. */
export type ResultOf = (node: TreeNode, callId: string | null) => SessionMessage | null;

interface Props {
  call: HeldCall | CallMade;
  node: TreeNode;
  context: LogContext;
  resultOf: ResultOf;
}

export function Tool({ call, node, context, resultOf }: Props): JSX.Element {
  const { session, acts, mayApprove } = context;
  const { call_id } = call;
  const server = "server" in call && call.server === true;
  const approval = "approval" in call && call.approval === true;
  const result = resultOf(node, call_id);
  const started = session.note(node.key).started ?? {};
  const running = Object.hasOwn(started, call_id ?? "");
  const open = node.message !== null && node.turn !== null && result === null && !running;
  const [asked, setAsked] = useAsked(context, open);
  const once = (act: () => void): void => {
    setAsked(true);
    act();
  };
  const by = started[call_id ?? ""] ?? "";
  const ended = node.message !== null && node.turn === null;
  const given = { hasResult: result !== null, called: call_id !== null };
  const label = stateLabel({ server, approval, open, by, running, ended, ...given });
  return (
    <div class="tool">
      <p class="tool-head">
        {"Tool call "}
        <code class="tool-name">{call.name ?? "…"}</code>
        {server && <span class="tool-place"> · on the server</span>}
        <span class="tool-state">{label}</span>
      </p>
      <pre class="tool-arguments">
        <Plain text={pretty(call.arguments)} />
      </pre>
      {open && server && approval && mayApprove && (
        <Decision
          asked={asked}
          decide={(approved, reason) => once(() => acts.approve(node.key, call_id ?? "", approved, reason))}
        />
      )}
      {open && !server && mayApprove && (
        <Giving
          asked={asked}
          give={(text, failed) => once(() => acts.giveResult(node.key, call_id ?? "", text, failed))}
        />
      )}
      {result !== null && <Result result={result} />}
    </div>
  );
}

/** Whether a decision or a result is on its way; not any more where the server did not take it. */
function useAsked({ session }: LogContext, open: boolean): [boolean, (asked: boolean) => void] {
  const [asked, setAsked] = useState(false);
  useEffect(() => (asked && open ? session.on("failed", () => setAsked(false)) : undefined), [session, asked, open]);
  return [asked && open, setAsked];
}

interface DecisionProps {
  asked: boolean;
  decide: (approved: boolean, reason?: string) => void;
}

function Decision({ asked, decide }: DecisionProps): JSX.Element {
  const reason = useRef<HTMLInputElement>(null);
  const deny = (): void => {
    const text = reason.current?.value.trim() ?? "";
    if (text === "") decide(false);
    else decide(false, text);
  };
  return (
    <div class="tool-decision">
      <button type="button" class="approve" disabled={asked} onClick={() => decide(true)}>
        Approve
      </button>
      <button type="button" class="plain deny" disabled={asked} onClick={deny}>
        Deny
      </button>
      <input
        class="deny-reason"
        ref={reason}
        disabled={asked}
        maxLength={500}
        placeholder="Why not (the model is told)"
        aria-label="Reason for denying, optional"
        onKeyDown={(event) => {
          if (event.key !== "Enter" || event.isComposing) return;
          event.preventDefault();
          deny();
        }}
      />
    </div>
  );
}

interface GivingProps {
  asked: boolean;
  give: (text: string, failed: boolean) => void;
}

function Giving({ asked, give }: GivingProps): JSX.Element {
  const field = useRef<HTMLTextAreaElement>(null);
  const failed = useRef<HTMLInputElement>(null);
  return (
    <form
      class="tool-giving"
      onSubmit={(event) => {
        event.preventDefault();
        give(field.current?.value ?? "", failed.current?.checked ?? false);
      }}
    >
      <textarea
        ref={field}
        rows={2}
        disabled={asked}
        placeholder="What the tool gives back"
        aria-label="Result of the tool"
      />
      <div class="buttons">
        <label class="check">
          <input ref={failed} type="checkbox" disabled={asked} />
          {" It failed"}
        </label>
        <button type="submit" disabled={asked}>
          Give the result
        </button>
      </div>
    </form>
  );
}

function Result({ result }: { result: SessionMessage }): JSX.Element {
  return (
    <details class="tool-result">
      <summary>{result.is_error ? `Failed (${result.author})` : `Result (${result.author})`}</summary>
      <pre>{textOf(result.content)}</pre>
    </details>
  );
}

interface CallState {
  server: boolean;
  approval: boolean;
  open: boolean;
  hasResult: boolean;
  by: string;
  running: boolean;
  ended: boolean;
  called: boolean;
}

function stateLabel({ server, approval, open, hasResult, by, running, ended, called }: CallState): string {
  if (hasResult) return "";
  if (running && !ended) return by ? `running, approved by ${by}` : "running";
  if (!open) return ended && called ? "not run" : "";
  if (!server) return "waits for its result";
  return approval ? "waits for approval" : "will run";
}

/** JSON with a line for each field; as it is where it is none, or not whole yet. */
function pretty(text: string): string {
  if (text.length > PRETTY_MOST || !/[}\]]\s*$/.test(text)) return text;
  try {
    const value: unknown = JSON.parse(text);
    const isFlat = typeof value !== "object" || value === null || Object.keys(value).length === 0;
    return isFlat ? text : JSON.stringify(value, null, 2);
  } catch {
    return text;
  }
}
