// A tool call in an answer: its name and arguments, what a member can do about it, and the result, folded away.

import { noteOf, textOf } from "./session.js";
import { GrowingText, button, element } from "./text.js";

export class ToolView {
  #call = null;
  #stream = null;
  #asked = false; // a decision or a result is on its way

  /** `act`: `approve(stream, call_id, approved)`, `giveResult(stream, call_id, text, is_error)`; null: it failed. */
  constructor(act) {
    this.act = act;
    this.root = element("div", "tool");
    const head = element("p", "tool-head", "Tool call ");
    this.name = element("code", "tool-name");
    this.state = element("span", "tool-state");
    head.append(this.name, this.state);
    const text = element("pre", "tool-arguments");
    this.arguments = new GrowingText(text);
    this.deciding = this.#deciding();
    this.giving = this.#giving();
    this.result = element("details", "tool-result");
    this.result.append(element("summary", ""), element("pre", ""));
    this.root.append(head, text, this.deciding, this.giving, this.result);
  }

  #deciding() {
    const row = element("div", "tool-decision");
    const decide = (approved) => () => this.#ask(() => this.act.approve(this.#stream, this.#call.call_id, approved));
    row.append(button("approve", "Approve", decide(true)), button("plain deny", "Deny", decide(false)));
    return row;
  }

  #giving() {
    const form = element("form", "tool-giving");
    const field = element("textarea", "");
    field.rows = 2;
    field.placeholder = "What the tool gives back";
    field.setAttribute("aria-label", "Result of the tool");
    const failed = element("input", "");
    failed.type = "checkbox";
    const label = element("label", "check");
    label.append(failed, " It failed");
    const buttons = element("div", "buttons");
    buttons.append(label, element("button", "", "Give the result"));
    form.append(field, buttons);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask(() => this.act.giveResult(this.#stream, this.#call.call_id, field.value, failed.checked));
    });
    return form;
  }

  /** Do something once: its buttons are off until it has come or failed. */
  async #ask(act) {
    this.#setAsked(true);
    if ((await act()) === null) this.#setAsked(false);
  }

  #setAsked(asked) {
    this.#asked = asked;
    for (const control of this.root.querySelectorAll("button, textarea, input")) control.disabled = asked;
  }

  /** `call` as the stream or the message has it, in the answer `node`. */
  show(call, node, { session, resultOf, mayApprove }) {
    this.#call = call;
    this.#stream = node.key;
    this.name.textContent = call.name ?? "…";
    this.arguments.show(call.arguments);
    const result = resultOf(node, call.call_id);
    const started = noteOf(session, node.key).started ?? {};
    const running = Object.hasOwn(started, call.call_id ?? "");
    const open = node.message !== null && node.turn !== null && result === null && !running;
    this.deciding.hidden = !(open && call.server && call.approval && mayApprove);
    this.giving.hidden = !(open && !call.server && mayApprove);
    this.state.textContent = stateLabel({ call, open, result, by: started[call.call_id], running, ended: node.turn === null });
    this.result.hidden = result === null;
    if (result === null) return;
    if (this.#asked) this.#setAsked(false);
    const [summary, text] = this.result.children;
    summary.textContent = result.is_error ? `Failed (${result.author})` : `Result (${result.author})`;
    if (text.textContent === "") text.textContent = textOf(result.content);
  }
}

function stateLabel({ call, open, result, by, running, ended }) {
  if (result !== null) return "";
  if (running && !ended) return by ? `running, approved by ${by}` : "running";
  if (!open) return ended && call.call_id ? "not run" : "";
  if (!call.server) return "waits for its result";
  return call.approval ? "waits for approval" : "will run";
}
