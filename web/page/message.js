// What a message looks like: what somebody said, and an answer as far as it has come.
//
// A view is brought up to date from plain state, at most once a frame of the screen.  When a stream's `revision` changes,
// what was shown is void and the answer begins anew.

import { Figures } from "./figures.js";
import { Turn, noteOf, streamOf, textOf } from "./session.js";
import { AnswerText, GrowingText, button, element } from "./text.js";
import { ToolView } from "./tools.js";

/** "2 / 3", with a button to each side, where a message has others beside it. */
class Branches {
  #item = null;

  /** `onChoose(above, key, by)`: the one `by` places on is to be looked at. */
  constructor(onChoose) {
    this.root = element("div", "branches");
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", "Versions");
    this.label = element("span", "");
    const step = (text, name, by) => {
      const made = button("quiet", text, () => {
        const { node, siblings, place } = this.#item;
        onChoose(node.above, siblings[place + by].key, by);
      });
      made.setAttribute("aria-label", name);
      return made;
    };
    this.before = step("‹", "Previous version", -1);
    this.after = step("›", "Next version", 1);
    this.root.append(this.before, this.label, this.after);
  }

  show(item) {
    this.#item = item;
    const { siblings, place } = item;
    this.root.hidden = siblings.length < 2;
    this.label.textContent = `${place + 1} / ${siblings.length}`;
    this.before.disabled = place === 0;
    this.after.disabled = place === siblings.length - 1;
  }

  /** Go on where the reader was, who has just gone this way. */
  focus(by) {
    const [wanted, other] = by < 0 ? [this.before, this.after] : [this.after, this.before];
    (wanted.disabled ? other : wanted).focus();
  }
}

/** What somebody said. */
export class SaidView {
  #node = null;

  /** `act`: `choose(above, key, by)`, `edit(node, text)`. */
  constructor(act) {
    this.root = element("article", "said");
    this.author = element("h3", "author");
    this.text = element("div", "text");
    this.branches = new Branches(act.choose);
    this.edit = button("quiet edit", "Edit", () => this.#beginEdit(act));
    this.foot = element("div", "foot");
    this.foot.append(this.branches.root, this.edit);
    this.root.append(this.author, this.text, this.foot);
  }

  show(item, { session, several, maySend }) {
    const { message } = (this.#node = item.node);
    const mine = message.author === session.me;
    this.root.classList.toggle("mine", mine);
    this.author.textContent = several || !mine ? message.author : "You";
    this.author.classList.toggle("unseen", !several && mine);
    const text = textOf(message.content);
    if (this.text.textContent !== text) this.text.textContent = text;
    this.branches.show(item);
    this.edit.hidden = !(mine && maySend && typeof message.content === "string");
  }

  #beginEdit(act) {
    if (this.root.querySelector("form")) return;
    const form = element("form", "editing");
    const field = element("textarea", "");
    field.setAttribute("aria-label", "Edit your message");
    field.value = this.text.textContent;
    const end = () => {
      form.remove();
      this.text.hidden = this.foot.hidden = false;
      this.edit.focus();
    };
    const save = element("button", "", "Send as a new version");
    const buttons = element("div", "buttons");
    buttons.append(button("plain", "Cancel", end), save);
    form.append(field, buttons);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = field.value.trim();
      if (text === "") return;
      end();
      act.edit(this.#node, text);
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      end();
    });
    this.text.hidden = this.foot.hidden = true;
    this.root.append(form);
    field.focus();
  }
}

/** An answer: what its stream has brought, or, where that was not read here, its message. */
export class ReplyView {
  #node = null;
  #revision = null;
  #parts = null;

  /** `act`: `choose(above, key, by)`, `regenerate(node)`, `approve(…)`, `giveResult(…)`. */
  constructor(act) {
    this.act = act;
    this.root = element("article", "reply");
    this.author = element("h3", "author unseen");
    this.body = element("div", "body");
    this.failure = element("p", "failure");
    this.failure.hidden = true;
    this.figures = new Figures();
    this.branches = new Branches(act.choose);
    this.again = button("quiet again", "Regenerate", () => act.regenerate(this.#node));
    const foot = element("div", "foot");
    foot.append(this.figures.root, this.branches.root, this.again);
    this.root.append(this.author, this.body, this.failure, foot);
  }

  show(item, context) {
    const { node } = item;
    const { session } = context;
    this.#node = node;
    const stream = streamOf(session, node.key);
    const state = stateOf(node, stream);
    const live = state === "live";
    this.root.dataset.state = state;
    this.root.setAttribute("aria-busy", String(live));
    this.author.textContent = node.message?.author ?? node.turn?.model ?? "";
    this.#showSaid(saidOf(node, stream), context);
    const note = noteOf(session, node.key);
    this.#showFailure(stream?.end?.error ?? note.error ?? null);
    const by = note.by && note.by !== session.me ? note.by : "";
    const { message } = node;
    this.figures.show({ stream, message, live, stopping: context.stopping, note, by }, context.rateOf(stream));
    this.branches.show(item);
    this.again.hidden = !(message !== null && node.turn === null && context.maySend);
  }

  #showSaid(said, context) {
    if (this.#revision !== said.revision || this.#parts === null) {
      this.#revision = said.revision;
      this.body.replaceChildren();
      this.#parts = { thinking: null, tools: new Map(), answer: null, refusal: null };
    }
    const parts = this.#parts;
    if (said.thinking) {
      parts.thinking ??= this.#addThinking();
      parts.thinking.text.show(said.thinking);
      const done = said.text !== "" || said.tool_calls.length > 0 || said.whole;
      parts.thinking.summary.textContent = done ? "Thought" : "Thinking …";
    }
    if (said.text || said.seams.length) {
      parts.answer ??= new AnswerText(this.#add("div", "text answer"));
      parts.answer.show(said.text, said.seams);
    }
    if (said.refusal) {
      parts.refusal ??= new GrowingText(this.#add("div", "text refusal"));
      parts.refusal.show(said.refusal);
    }
    for (const [place, call] of said.tool_calls.entries()) {
      if (!parts.tools.has(place)) {
        const view = new ToolView(this.act);
        this.body.append(view.root);
        parts.tools.set(place, view);
      }
      parts.tools.get(place).show(call, this.#node, context);
    }
  }

  #add(tag, className) {
    const made = element(tag, className);
    this.body.append(made);
    return made;
  }

  #addThinking() {
    const fold = this.#add("details", "thinking");
    const summary = element("summary", "");
    const text = element("div", "text");
    fold.append(summary, text);
    return { summary, text: new GrowingText(text) };
  }

  #showFailure(error) {
    this.failure.hidden = error === null;
    if (error === null || this.failure.childElementCount) return;
    this.failure.append(element("code", "", error.code), ` ${error.message}`);
  }
}

/** "live", "waiting" (for results of tools), or how it ended.  A stream that is being read is shown to its end. */
function stateOf({ message, turn }, stream) {
  if (message === null || (stream !== null && stream.offset > 0 && stream.end === null)) return "live";
  if (turn !== null) return turn.state === Turn.WAITING ? "waiting" : "live";
  return message.reason ?? "complete";
}

/** What an answer says.  What was shown of it goes on growing when the message takes the stream's place. */
function saidOf({ message }, stream) {
  const read = stream ?? { revision: 0, text: "", thinking: "", refusal: "", tool_calls: [], seams: [], end: null };
  if (message === null) return { ...read, whole: false };
  const text = textOf(message.content);
  return {
    // Parts of the text may have been withdrawn that are still shown.
    revision: text.startsWith(read.text) ? read.revision : "message",
    text: text || (read.refusal ? "" : read.text),
    thinking: message.thinking ?? read.thinking,
    refusal: read.refusal,
    seams: read.seams,
    tool_calls: message.tool_calls ?? read.tool_calls,
    whole: true,
  };
}
