// What can be asked of a session once, and is not repeated by itself: where it fails, its sender is told.
//
// Nothing is changed here by a reply.  What has come of it, if anything, the session says in its entries.

export const LOST = "connection.lost";

export class Orders {
  #wire;
  #session;
  #failed;

  /** `session()` gives the id of the open session; `failed(text)` is told what went wrong. */
  constructor({ wire, session, failed }) {
    this.#wire = wire;
    this.#session = session;
    this.#failed = failed;
  }

  history(before, limit) {
    return this.#ask({ type: "session.history", before, limit });
  }

  update(fields) {
    return this.#ask({ type: "session.update", ...fields });
  }

  /** Update any session; the code of what went wrong, or null. */
  async set(session, fields) {
    try {
      await this.#wire.request({ type: "session.update", session, ...fields });
      return null;
    } catch ({ code, message }) {
      if (code !== LOST) this.#failed(`${code}: ${message}`);
      return code;
    }
  }

  /** The session as a text; `message`: the end of the path that is wanted, or undefined. */
  exported(format, message) {
    return this.#ask({ type: "session.export", format, message });
  }

  /** Make somebody a member, or change the role of one. */
  addMember(user, role) {
    return this.#ask({ type: "member.add", user, role });
  }

  removeMember(user) {
    return this.#ask({ type: "member.remove", user });
  }

  removeQueued({ stream }) {
    return this.#try({ type: "cancel", stream });
  }

  approve(stream, call_id, approved) {
    return this.#ask({ type: "tool_approval", stream, approvals: [{ call_id, approved }] });
  }

  /** Give a result of a tool.  The last one is accepted with the stream that goes on. */
  giveResult(stream, call_id, content, is_error) {
    return this.#ask({ type: "tool_result", stream, results: [{ call_id, content, ...(is_error && { is_error }) }] });
  }

  /** Tell the others that somebody types.  It may be lost. */
  type(typing) {
    this.#wire.send({ type: "typing", session: this.#session(), typing });
  }

  #ask(command) {
    return this.#try({ ...command, session: this.#session() });
  }

  /** A promise of the reply, or of null where it failed. */
  async #try(command) {
    try {
      return await this.#wire.request(command);
    } catch ({ code, message }) {
      this.#failed(code === LOST ? "The connection was lost: try again." : `${code}: ${message}`);
      return null;
    }
  }
}
