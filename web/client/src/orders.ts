// What can be asked of a session once, and is not repeated by itself: where it fails, its sender is told.
//
// Nothing is changed here by a reply.  What has come of it, if anything, the session says in its entries.

import type { CommandError } from "./errors.ts";
import { LOST } from "./errors.ts";
import type { Command, MessagesListed, ReplyTo, Role } from "./frames.ts";
import type { TurnState } from "./session.ts";
import type { Wire } from "./wire.ts";

export interface SessionFields {
  title?: string;
  system?: string;
  model?: string;
}

export abstract class Orders {
  #wire: Wire;

  constructor(wire: Wire) {
    this.#wire = wire;
  }

  /** The session that they are for. */
  abstract get id(): string | null;
  /** Something went wrong. */
  protected abstract failed(text: string): void;

  get #session(): string {
    return this.id ?? "";
  }

  protected history(before: string | undefined, limit: number): Promise<MessagesListed | null> {
    const from = before === undefined ? {} : { before };
    return this.#try({ type: "session.history", session: this.#session, limit, ...from });
  }

  /** Whether it was done; where not, it is said why.  So with those that follow. */
  async update(fields: SessionFields): Promise<boolean> {
    return (await this.#try({ type: "session.update", session: this.#session, ...fields })) !== null;
  }

  /** The session as a text; `message`: the end of the path that is wanted. */
  async exported(format: "json" | "markdown", message?: string): Promise<string | null> {
    const path = message === undefined ? {} : { message };
    return (await this.#try({ type: "session.export", session: this.#session, format, ...path }))?.content ?? null;
  }

  /** Make somebody a member, or change the role of one. */
  async addMember(user: string, role: Role): Promise<boolean> {
    return (await this.#try({ type: "member.add", session: this.#session, user, role })) !== null;
  }

  async removeMember(user: string): Promise<boolean> {
    return (await this.#try({ type: "member.remove", session: this.#session, user })) !== null;
  }

  removeQueued({ stream }: TurnState): void {
    void this.#try({ type: "cancel", stream });
  }

  approve(stream: string, call_id: string, approved: boolean, reason?: string): void {
    const approvals = [{ call_id, approved, ...(reason ? { reason } : {}) }];
    void this.#try({ type: "tool_approval", session: this.#session, stream, approvals });
  }

  /** Give a result of a tool.  With the last one the turn goes on, in another stream. */
  giveResult(stream: string, call_id: string, content: unknown, isError = false): void {
    const results = [{ call_id, content, ...(isError ? { is_error: true } : {}) }];
    void this.#try({ type: "tool_result", session: this.#session, stream, results });
  }

  /** Tell the others that somebody types here.  It may be lost. */
  type(typing: boolean): void {
    if (this.id !== null) this.#wire.send({ type: "typing", session: this.#session, typing });
  }

  /** A promise of the reply, or of null where it failed. */
  async #try<C extends Command>(command: C): Promise<ReplyTo<C> | null> {
    try {
      return await this.#wire.request(command);
    } catch (error) {
      const { code, message } = error as CommandError;
      this.failed(code === LOST ? "The connection was lost: try again." : `${code}: ${message}`);
      return null;
    }
  }
}
