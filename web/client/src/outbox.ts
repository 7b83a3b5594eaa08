// What was asked for and is not answered yet.
//
// A `generate` may have arrived or not when its connection is lost.  It stays here until its answer has come, is stored
// where there is a storage, and is sent again with the same id at every welcome: that starts nothing twice.  Requests
// go one after the other, each after the answer to the one before: what is sent at once may be taken in any order.
//
//   posted --sent, accepted--> kept until its sender drops it (a session: once it shows it)
//     |`-------error---------> failed: its sender sends it anew, or drops it
//     `--connection lost-----> sent again at the next welcome;  node.draining is the same: a goaway is on its way
//
// A request that a reload has left behind has no sender until one adopts it.  It is sent all the same.

import { CommandError, LOST } from "./errors.ts";
import type { Accepted, Command, GenerateCommand } from "./frames.ts";
import type { KeyValues, Request } from "./options.ts";
import { loaded, stored } from "./storage.ts";
import type { Wire } from "./wire.ts";

const KEY = "everstream.outbox.1";
const DRAINING = "node.draining";

/** Who has asked. */
export interface Sender {
  accepted(request: Request, reply: Accepted): void;
  refused(request: Request, error: CommandError): void;
}

export class Outbox {
  #wire: Wire;
  #storage: KeyValues | null;
  #requests: Request[];
  #senders = new WeakMap<Request, Sender>();
  #sending: Promise<void> = Promise.resolve(); // until the last of those that were sent is answered, or lost

  constructor(wire: Wire, storage: KeyValues | null) {
    this.#wire = wire;
    this.#storage = storage;
    const kept = loaded(storage, KEY);
    this.#requests = Array.isArray(kept) ? (kept as Request[]) : [];
  }

  get requests(): readonly Request[] {
    return this.#requests;
  }

  has(request: Request): boolean {
    return this.#requests.includes(request);
  }

  /** Those that `wanted` says, which are nobody's: they are the sender's from now on. */
  adopt(sender: Sender, wanted: (request: Request) => boolean): Request[] {
    const adopted = this.#requests.filter((request) => !this.#senders.has(request) && wanted(request));
    for (const request of adopted) this.#senders.set(request, sender);
    return adopted;
  }

  post(request: Request, sender: Sender): void {
    this.#requests.push(request);
    this.#senders.set(request, sender);
    this.save();
    this.#sendNext(request);
  }

  /** Whose requests are whose no more: somebody else may adopt them. */
  release(sender: Sender): void {
    for (const request of this.of(sender)) this.#senders.delete(request);
    this.save();
  }

  of(sender: Sender): Request[] {
    return this.#requests.filter((request) => this.#senders.get(request) === sender);
  }

  /** Their senders look at something else: what would make a session is nobody's any more. */
  leave(): void {
    for (const request of this.#requests) {
      if (!this.#senders.has(request)) request.left ||= request.session === null && request.messages === undefined;
    }
  }

  /** What was asked for can be seen elsewhere. */
  done(request: Request): void {
    if (request.reply !== null) request.reply.seen = true;
    if (!request.system) this.drop(request); // else once that is set
  }

  drop(request: Request): void {
    this.#requests = this.#requests.filter((other) => other !== request);
    this.save();
  }

  save(): void {
    stored(this.#storage, KEY, this.#requests.length > 0 ? this.#requests : null);
  }

  /** A welcome has come: whatever has no answer is sent. */
  welcomed(): void {
    for (const request of this.#requests) {
      if (isPending(request)) this.#sendNext(request);
      else if (request.reply !== null && request.system) this.#setSystem(request);
    }
  }

  #sendNext(request: Request): void {
    this.#sending = this.#sending.then(() => this.#send(request));
  }

  #send(request: Request): Promise<void> {
    if (!isPending(request) || !this.has(request) || this.#wire.state !== "open") return Promise.resolve();
    request.sends += 1;
    this.save();
    return new Promise((resolve) => {
      this.#wire.ask(commandOf(request), (reply, error) => {
        if (error === null) this.#accepted(request, reply as Accepted);
        else if (error.code !== LOST && error.code !== DRAINING) this.#refused(request, error);
        resolve();
      });
    });
  }

  #accepted(request: Request, reply: Accepted): void {
    request.reply = { stream: reply.stream, seen: false };
    const sender = this.#senders.get(request);
    const makes = request.session === null && reply.session;
    if (sender !== undefined) sender.accepted(request, reply);
    else {
      this.#wire.send({ type: "unsubscribe", stream: reply.stream }); // nobody reads it here
      this.done(request);
    }
    if (makes) {
      request.session = makes;
      if (request.system) this.#setSystem(request);
    }
    this.save();
  }

  /** The session that a request has made keeps the system prompt of its first message. */
  #setSystem(request: Request): void {
    const { session, system } = request;
    if (session === null || system === undefined) return;
    this.#wire.ask({ type: "session.update", session, system }, (_, error) => {
      if (error?.code === LOST) return; // the next welcome sets it
      request.system = undefined;
      if (request.reply?.seen) this.drop(request);
    });
  }

  #refused(request: Request, error: CommandError): void {
    request.error = { code: error.code, message: error.message };
    this.#senders.get(request)?.refused(request, error);
    this.save();
  }
}

type Fields = Partial<Request> & Pick<Request, "session">;

/** A request not sent yet.  Without `content` it answers `parent` anew; `parent` undefined: the newest path. */
export function newRequest(fields: Fields): Request {
  const { content, parent, choice, model, params, on_busy, system, messages, budget, session } = fields;
  const asked = { content, parent, choice, model, params, on_busy, system, messages, budget, session };
  return { ...asked, request_id: fields.request_id ?? randomId(), sends: 0, reply: null, error: null, left: false };
}

/** The command of a request. */
export function commandOf(request: Request): Command {
  const { request_id, session, content, parent, model, params, on_busy, system, messages, budget } = request;
  const command: GenerateCommand = { type: "generate", request_id, params: { ...params } };
  if (model !== undefined) command.model = model;
  if (budget !== undefined) command.budget = budget;
  if (messages !== undefined) return { ...command, messages: [...messages] };
  if (content !== undefined) command.content = content;
  if (parent !== undefined) command.parent = parent;
  if (session !== null) return { ...command, session, ...(on_busy && { on_busy }) };
  return system ? { ...command, params: { ...params, system } } : command;
}

/** Whether the answer is still to come. */
export function isPending({ reply, error }: Request): boolean {
  return reply === null && error === null;
}

export function randomId(): string {
  // crypto.randomUUID exists on secure origins only; a page served over plain HTTP in a local network is none.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
