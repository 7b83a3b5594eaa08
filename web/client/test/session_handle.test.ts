// A session as its viewer uses it: what he says, wants stopped and has chosen survives connections and reloads.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import type { GenerateCommand } from "../src/frames.ts";
import type { Session } from "../src/session_handle.ts";
import { Scene, end, pass, settled, storage, text } from "./server.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const ID = "s_1";
const CHOSEN = { model: "scripted/count", params: {}, on_busy: "queue" as const };

function message(id: string, parent: string | null, fields: object = {}): object {
  return { id, parent, role: "user", author: "ada", content: id, created: 1, ...fields };
}

function opened(fields: object = {}): object {
  const empty = { title: "", system: "", model: "", created: 1, role: "owner", members: [], users: [] };
  return { type: "ok", session: ID, ...empty, messages: [], more: false, running: [], epoch: 3, offset: 5, ...fields };
}

const RUNNING = { turn: "t_1", stream: "r_1", epoch: 3, model: "m/m", message: "m_1", user: "ada", state: "running" };

async function open(scene: Scene, fields: object = {}): Promise<Session> {
  scene.opened();
  const session = scene.client.session(ID);
  await scene.answer("session.open", opened(fields));
  return session;
}

function accepted(stream: string, message = "m_1"): object {
  return { type: "accepted", session: ID, stream, epoch: 3, turn: "t_1", message };
}

function subscribed(stream: string, offset: number, tail: number): object {
  return { type: "subscribed", stream, epoch: 3, offset, tail, status: "open" };
}

function generates(scene: Scene): GenerateCommand[] {
  return scene.socket.sent.filter((command): command is GenerateCommand => command.type === "generate");
}

describe("a session", () => {
  it("is opened at once, and resumed with all its places by every hello", async () => {
    const scene = new Scene();
    const session = await open(scene, { messages: [message("m_1", null)], running: [RUNNING] });
    expect(session.state).toMatchObject({ id: ID, opened: true, me: "ada" });
    expect(session.path.map(({ node }) => node.key)).toEqual(["m_1", "r_1"]);
    scene.socket.say(text("r_1", 0, "abc"));
    expect(session.stream("r_1")?.text).toBe("abc");
    scene.socket.drop();
    await pass(0);
    scene.welcome();
    expect(scene.socket.sent[0]).toMatchObject({
      resume: [
        { stream: ID, epoch: 3, offset: 5 },
        { stream: "r_1", epoch: 3, offset: 3 },
      ],
    });
    expect(scene.commands).toEqual([]);
  });

  it("is the same one for who opens it twice, until it is closed", async () => {
    const scene = new Scene();
    const session = await open(scene);
    expect(scene.client.session(ID)).toBe(session);
    session.close();
    session.close();
    expect(scene.commands.filter((command) => (command as { type: string }).type === "session.close").length).toBe(1);
    expect(scene.client.session(ID)).not.toBe(session);
  });

  it("goes on from what was saved", async () => {
    const scene = new Scene();
    const session = await open(scene, { messages: [message("m_1", null)], running: [RUNNING] });
    scene.socket.say(text("r_1", 0, "abc"));
    const saved = JSON.parse(JSON.stringify(session.saved())) as ReturnType<Session["saved"]>;
    const reloaded = new Scene();
    const again = reloaded.client.session(ID, saved);
    expect(again.stream("r_1")?.text).toBe("abc");
    reloaded.opened();
    const resume = [{ stream: ID }, { stream: "r_1", offset: 3 }];
    expect(reloaded.socket.sent[0]).toMatchObject({ resume });
    const late = new Scene();
    late.opened();
    late.client.session(ID, saved);
    expect(late.commands).toMatchObject([{ type: "session.open", responses: [{ stream: "r_1", offset: 3 }] }]);
  });

  it("that nobody may see is gone", async () => {
    const scene = new Scene();
    scene.opened();
    const session = scene.client.session(ID);
    const why = vi.fn();
    session.on("gone", why);
    await scene.answer("session.open", { type: "error", code: "session.unknown", message: "", retryable: false });
    expect(why).toHaveBeenCalledWith({ why: "unknown" });
    expect(scene.client.session(ID)).not.toBe(session);
  });

  it("that is deleted is gone, and its stream is left as it is", async () => {
    const scene = new Scene();
    const session = await open(scene);
    const why = vi.fn();
    session.on("gone", why);
    scene.socket.say({ type: "session", session: ID, stream: ID, after: 5, upto: 6, deleted: true });
    expect(why).toHaveBeenCalledWith({ why: "deleted" });
  });

  it("shows who types, for a while", async () => {
    const scene = new Scene();
    const session = await open(scene);
    scene.socket.say({ type: "typing", session: ID, user: "bob", typing: true });
    scene.socket.say({ type: "typing", session: "s_2", user: "eve", typing: true });
    expect(session.typing).toEqual(["bob"]);
    await pass(6_000);
    expect(session.typing).toEqual([]);
    session.type(true);
    expect(scene.commands.at(-1)).toEqual({ type: "typing", session: ID, typing: true });
  });
});

describe("what is said", () => {
  it("makes the session, where there is none yet", async () => {
    const scene = new Scene();
    const session = scene.client.session(null);
    const made = vi.fn();
    session.on("made", made);
    session.send("Count!", { ...CHOSEN, system: "Be brief." });
    session.send("And on!", CHOSEN);
    expect(session.requests.map(({ content }) => content)).toEqual(["Count!", "And on!"]);
    scene.opened();
    await settled();
    expect(generates(scene)).toMatchObject([{ content: "Count!", params: { system: "Be brief." } }]);
    await scene.answer("generate", accepted("r_1"));
    expect(made).toHaveBeenCalledWith({ id: ID, stream: "r_1" });
    expect(session.id).toBe(ID);
    expect(scene.commands).toContainEqual({ type: "session.update", session: ID, system: "Be brief." });
    expect(generates(scene)[1]).toMatchObject({ session: ID, content: "And on!", on_busy: "queue" });
    scene.socket.say(text("r_1", 0, "1 2"));
    expect(session.stream("r_1")?.text).toBe("1 2");
    await scene.answer("session.update", { type: "ok" });
    await scene.answer("session.open", opened({ messages: [message("m_1", null)], running: [RUNNING] }));
    expect(session.requests.map(({ content }) => content)).toEqual(["And on!"]);
  });

  it("while there is no connection is sent with the next, and shown until the session shows it", async () => {
    const scene = new Scene();
    const session = await open(scene);
    scene.socket.drop();
    session.send("a", CHOSEN);
    session.send("b", CHOSEN);
    await pass(0);
    scene.welcome();
    await settled();
    expect(generates(scene).map(({ content }) => content)).toEqual(["a"]);
    await scene.answer("generate", accepted("r_1"));
    expect(generates(scene).map(({ content }) => content)).toEqual(["a", "b"]);
    scene.socket.say(subscribed(ID, 5, 7));
    expect(session.requests.length).toBe(2);
    const start = { type: "turn_start", turn: "t_1", stream: "r_1", model: "m/m", message: "m_1", user: "ada" };
    scene.socket.say({ ...start, session: ID, after: 5, upto: 6 });
    expect(session.requests.map(({ content }) => content)).toEqual(["b"]);
  });

  it("that is refused can be sent anew, or dropped", async () => {
    const scene = new Scene();
    const session = await open(scene);
    session.send("a", CHOSEN);
    await settled();
    await scene.answer("generate", { type: "error", code: "limit.rate", message: "slower", retryable: true });
    const [refused] = session.requests;
    expect(refused?.error).toEqual({ code: "limit.rate", message: "slower" });
    if (refused !== undefined) session.postAgain(refused, { ...CHOSEN, model: "a/b" });
    await settled();
    const [first, second] = generates(scene);
    expect(second).toMatchObject({ content: "a", model: "a/b" });
    expect(second?.request_id).not.toBe(first?.request_id);
    const [again] = session.requests;
    if (again !== undefined) session.drop(again);
    expect(session.requests).toEqual([]);
  });

  it("is kept over a reload, and adopted by who opens the session again", async () => {
    const kept = storage();
    const scene = new Scene({ storage: kept });
    const session = scene.client.session(null);
    session.send("a", CHOSEN);
    const reloaded = new Scene({ storage: kept });
    const again = reloaded.client.session(null);
    expect(again.requests.map(({ content }) => content)).toEqual(["a"]);
    again.close(); // its sender looks at something else
    expect(reloaded.client.session(null).requests).toEqual([]);
    reloaded.opened();
    await settled();
    await reloaded.answer("generate", accepted("r_1", "m"));
    expect(reloaded.commands.at(-1)).toEqual({ type: "unsubscribe", stream: "r_1" });
    expect(kept.held.size).toBe(0);
  });

  it("beside another branch names its parent, and is looked at", async () => {
    const scene = new Scene({ storage: storage() });
    const messages = [message("m_1", null), message("m_2", "m_1", { role: "assistant", stream: "r_0" })];
    const session = await open(scene, { messages });
    const [first, second] = session.path;
    if (first === undefined || second === undefined) throw new Error("no path");
    session.edit(first.node, "other", CHOSEN);
    await settled();
    expect(generates(scene)[0]).toMatchObject({ content: "other", parent: null });
    await scene.answer("generate", accepted("r_1", "m_3"));
    session.regenerate(second.node, CHOSEN);
    await settled();
    expect(generates(scene)[1]).toMatchObject({ parent: "m_1" });
    expect(generates(scene)[1]).not.toHaveProperty("content");
    expect(session.saved().choices).toEqual({ "": "m_3" });
  });
});

describe("a stop in a session", () => {
  it("is remembered, and stops only what was to be stopped", async () => {
    const scene = new Scene();
    const session = await open(scene, { running: [RUNNING] });
    scene.socket.drop();
    session.stop();
    expect(session.stopping).toBe(true);
    await pass(0);
    scene.welcome();
    expect(scene.commands).toContainEqual({ type: "cancel", session: ID });
    scene.socket.drop();
    const again = { ...RUNNING, turn: "t_2", stream: "r_2" };
    await pass(250);
    scene.welcome();
    const state = opened({ running: [RUNNING, again] });
    scene.socket.say({ ...state, type: "snapshot", stream: ID, upto: 5, status: "open" });
    scene.socket.drop();
    await pass(500);
    scene.welcome();
    expect(scene.commands.filter((command) => (command as { type: string }).type === "cancel")).toEqual([
      { type: "cancel", stream: "r_1" },
    ]);
  });

  it("that fails is told of", async () => {
    const scene = new Scene();
    const session = await open(scene, { running: [RUNNING] });
    const failed = vi.fn();
    session.on("failed", failed);
    session.stop();
    await scene.answer("cancel", { type: "error", code: "auth.forbidden", message: "no", retryable: false });
    expect(failed).toHaveBeenCalledWith({ text: "It could not be stopped. auth.forbidden: no" });
    expect(session.stopping).toBe(false);
  });
});

describe("a stream of a session", () => {
  it("is read once, also where a program reads it beside the session", async () => {
    const scene = new Scene();
    const session = await open(scene, { running: [RUNNING] });
    scene.socket.say(text("r_1", 0, "abc"));
    const stream = scene.client.subscribe("r_1");
    const pieces: string[] = [];
    const over = (async () => {
      for await (const piece of stream.textDeltas()) pieces.push(piece);
    })();
    await settled();
    scene.socket.say(text("r_1", 3, "d"));
    await settled();
    expect(pieces).toEqual(["abc", "d"]);
    expect(scene.commands.length).toBe(1); // session.open
    session.close();
    expect(scene.commands.at(-1)).toEqual({ type: "subscribe", stream: "r_1", epoch: 3, offset: 4 });
    await scene.answer("subscribe", subscribed("r_1", 4, 4));
    scene.socket.say(end("r_1", 4));
    await over;
    expect((await stream.result).text).toBe("abcd");
  });

  it("that has said nothing yet is left to the session by a new connection", async () => {
    const scene = new Scene();
    await open(scene, { running: [RUNNING] });
    scene.client.subscribe("r_1");
    scene.socket.drop();
    await pass(0);
    scene.welcome();
    expect(scene.socket.sent[0]).toMatchObject({ resume: [{ stream: ID, epoch: 3, offset: 5 }] });
    expect(scene.commands).toEqual([]);
  });

  it("that the session holds no more is read by itself", async () => {
    const scene = new Scene();
    await open(scene, { running: [RUNNING] });
    const stream = scene.client.subscribe("r_1");
    scene.socket.say(text("r_1", 0, "abc"));
    scene.socket.say({ ...opened(), type: "snapshot", stream: ID, upto: 9, offset: 9, status: "open" });
    expect(scene.commands.at(-1)).toEqual({ type: "subscribe", stream: "r_1", epoch: 3, offset: 3 });
    await scene.answer("subscribe", subscribed("r_1", 3, 5));
    scene.socket.say(text("r_1", 3, "de"));
    expect(stream.text).toBe("abcde");
  });

  it("that was read before the session is opened goes on with it", async () => {
    const scene = new Scene();
    scene.opened();
    const stream = scene.client.subscribe("r_1");
    await scene.answer("subscribe", subscribed("r_1", 0, 9));
    scene.socket.say(text("r_1", 0, "abc"));
    const session = scene.client.session(ID);
    await scene.answer("session.open", opened({ running: [RUNNING] }));
    scene.socket.say(text("r_1", 0, "abcde"));
    scene.socket.say(end("r_1", 5));
    expect(stream.state).toBe(session.stream("r_1"));
    expect((await stream.result).text).toBe("abcde");
    expect(scene.commands.length).toBe(2);
  });
});
