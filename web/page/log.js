// The conversation as it is shown: the path that is looked at, and below it what is still to come.
//
// Views are kept by the key of what they show and moved, not made anew: an answer's view is the same while it streams,
// as a message, and when its branch is chosen again.

import { ReplyView, SaidView } from "./message.js";
import { queuedTurns, textOf } from "./session.js";
import { button, element } from "./text.js";

export class LogView {
  #log;
  #coming;
  #act;
  #views = new Map(); // key -> view
  #shown = []; // the path's items that have a view
  #context = null;
  #went = null; // {key, by}: the branch that the reader has just gone to

  /** Into `log` goes the path, into `coming` what is queued or sent.  `act` is what people can do, by name. */
  constructor({ log, coming, act }) {
    this.#log = log;
    this.#coming = coming;
    const choose = (above, key, by) => {
      this.#went = { key, by };
      act.choose(above, key);
    };
    this.#act = { ...act, choose };
  }

  /** Show the path, and what is to come: the session has changed. */
  show(path, requests, context) {
    const results = path.filter(({ node }) => node.message?.role === "tool");
    const resultOf = (node, call_id) =>
      results.find(({ node: { message } }) => message.call_id === call_id && follows(path, node, message))?.node.message ??
      null;
    this.#context = { ...context, resultOf };
    this.#shown = path.filter(({ node }) => node.message?.role !== "tool");
    const keys = new Set(this.#shown.map(({ node }) => node.key));
    for (const [key, view] of this.#views) {
      if (keys.has(key)) continue;
      view.root.remove();
      this.#views.delete(key);
    }
    for (const [place, { node }] of this.#shown.entries()) {
      const { root } = this.#viewOf(node);
      if (this.#log.children[place] !== root) this.#log.insertBefore(root, this.#log.children[place] ?? null);
    }
    this.grow(() => true);
    this.#showComing(requests, context);
    // The view that had the focus is gone with its branch.
    if (this.#went !== null) this.#views.get(this.#went.key)?.branches.focus(this.#went.by);
    this.#went = null;
  }

  /** Bring the answers up to date whose stream may have grown. */
  grow(isGrowing = ({ message, turn }) => message === null || turn !== null) {
    for (const item of this.#shown) {
      if (isGrowing(item.node) || this.#views.get(item.node.key).root.dataset.state === "live") {
        this.#views.get(item.node.key).show(item, this.#context);
      }
    }
  }

  #viewOf(node) {
    if (!this.#views.has(node.key)) {
      const View = node.message?.role === "user" ? SaidView : ReplyView;
      this.#views.set(node.key, new View(this.#act));
    }
    return this.#views.get(node.key);
  }

  #showComing(requests, { session, several, maySend }) {
    const queued = session === null ? [] : queuedTurns(session);
    const known = new Set(queued.map(({ stream }) => stream));
    const cards = queued.map((turn, place) => this.#queuedCard(turn, place, { session, several, maySend }));
    for (const request of requests) {
      if (!known.has(request.reply?.stream)) cards.push(this.#requestCard(request));
    }
    // Made anew only where they differ, so that a button keeps the focus.
    const same =
      cards.length === this.#coming.childElementCount &&
      cards.every((card, place) => card.isEqualNode(this.#coming.children[place]) && !card.classList.contains("failed"));
    if (!same) this.#coming.replaceChildren(...cards);
  }

  #queuedCard(turn, place, { session, several, maySend }) {
    const card = element("article", "queued");
    card.dataset.stream = turn.stream;
    const anew = session.messages.find(({ id }) => id === turn.message);
    const text = turn.content === undefined ? `Again: ${textOf(anew?.content ?? "")}` : textOf(turn.content);
    const next = turn.interrupt ? "interrupts" : place === 0 ? "next" : `number ${place + 1}`;
    const whose = several ? `Queued by ${turn.user}` : "Queued";
    card.append(element("p", "queued-label", `${whose}, ${next}, ${turn.model}`), element("div", "text", text));
    if (maySend) card.append(button("plain remove", "Remove", () => this.#act.removeQueued(turn)));
    return card;
  }

  #requestCard(request) {
    const card = element("article", "pending");
    const text = request.content === undefined ? "Answer again" : textOf(request.content);
    card.append(element("div", "text", text));
    if (request.error === null) {
      card.append(element("p", "queued-label", "sending …"));
      return card;
    }
    card.classList.add("failed");
    const failure = element("p", "failure");
    failure.append(element("code", "", request.error.code), ` ${request.error.message}`);
    const buttons = element("div", "buttons");
    buttons.append(
      button("plain remove", "Remove", () => this.#act.drop(request)),
      button("plain again", "Send again", () => this.#act.postAgain(request)),
    );
    card.append(failure, buttons);
    return card;
  }
}

/** Whether a result stands in the path behind the answer, before any other answer. */
function follows(path, answer, result) {
  const from = path.findIndex(({ node }) => node === answer);
  for (const { node } of path.slice(from + 1)) {
    if (node.message?.role !== "tool") return false;
    if (node.message === result) return true;
  }
  return false;
}
