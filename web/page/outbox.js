// What was sent and is not answered yet.
//
// A `generate` may have arrived or not when its connection is lost.  It stays here until its answer has come, is stored
// with the page, and is sent again with the same id at every welcome: that starts nothing twice.
//
//   sent --accepted--> (dropped once the session shows it)
//     `----error-----> failed: its sender sends it anew, or removes it

/** A request that was not sent yet.  Without `content` it answers `parent` anew; `parent` undefined: the newest path. */
export function newRequest({ session, content, parent, choice, model, params, on_busy, system }) {
  return {
    request_id: randomId(),
    session, // null: it makes one
    content,
    parent,
    choice, // the parent's key, where the viewer wants to look at what becomes of this
    model,
    params,
    on_busy,
    system, // to be set in the session that it makes
    sends: 0,
    reply: null,
    error: null, // {code, message}
    left: false, // its sender looks at another session
  };
}

/** The command of a request. */
export function commandOf({ request_id, session, content, parent, model, params, on_busy, system }) {
  const command = { type: "generate", request_id, model, params: { ...params } };
  if (content !== undefined) command.content = content;
  if (parent !== undefined) command.parent = parent;
  if (session !== null) Object.assign(command, { session, on_busy });
  else if (system) command.params.system = system;
  return command;
}

/** Whether the answer is still to come. */
export function isPending({ reply, error }) {
  return reply === null && error === null;
}

function randomId() {
  // crypto.randomUUID exists on secure origins only; a page served over plain HTTP in a local network is none.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
