// The page without its look: what becomes of what the reader does, and of what the client tells.

import type { Client, ClientEvents, Model, Session, SessionEvents, SessionState } from "@everstream/client";
import { newSession } from "@everstream/client";
import { beforeEach, expect, test, vi } from "vitest";

import { Page } from "../src/state/page.ts";
import { Settings } from "../src/state/settings.ts";
import { Token } from "../src/state/token.ts";
import { MemoryStore, model, settled } from "./doubles.ts";

type Listeners<Events> = { [K in keyof Events]?: (value: Events[K]) => void };

/** A session that does nothing, and remembers what it was asked for. */
class FakeSession {
  readonly listeners: Listeners<SessionEvents> = {};
  readonly asked: unknown[][] = [];
  readonly path: Session["path"] = [];
  requests: { error: null | { code: string; message: string } }[] = [];
  typing: string[] = [];
  stopping = false;
  state: SessionState;
  rights: string[] = ["send", "update", "delete"];

  readonly id: string | null;

  constructor(id: string | null) {
    this.id = id;
    this.state = newSession(id ?? "", "ann");
  }

  on<K extends keyof SessionEvents>(event: K, listener: (value: SessionEvents[K]) => void): () => void {
    this.listeners[event] = listener as never;
    return () => delete this.listeners[event];
  }

  may(right: string): boolean {
    return this.rights.includes(right);
  }

  saved() {
    return { session: this.id === null ? null : this.state, choices: {}, stopping: [] };
  }

  stream(): null {
    return null;
  }

  note() {
    return {};
  }

  send(...asked: unknown[]): void {
    this.asked.push(["send", ...asked]);
  }

  type(typing: boolean): void {
    this.asked.push(["type", typing]);
  }

  stop(): void {
    this.asked.push(["stop"]);
  }

  drop(): void {
    this.asked.push(["drop"]);
  }

  close(): void {
    this.asked.push(["close"]);
  }
}

class FakeClient {
  readonly listeners: { event: string; listener: (value: never) => void }[] = [];
  readonly opened: FakeSession[] = [];
  readonly deleted: string[] = [];
  state = "closed";
  welcome = null;
  offered: Model[] = [model("scripted/lorem"), model("openai/one", { images: true })];

  on(event: string, listener: (value: never) => void): () => void {
    this.listeners.push({ event, listener });
    return () => {};
  }

  tell<K extends keyof ClientEvents>(event: K, value: ClientEvents[K]): void {
    if (event === "state") this.state = (value as ClientEvents["state"]).state;
    for (const known of this.listeners) if (known.event === event) known.listener(value as never);
  }

  session(id: string | null): FakeSession {
    const session = new FakeSession(id);
    this.opened.push(session);
    return session;
  }

  models(): Promise<Model[]> {
    return Promise.resolve(this.offered);
  }

  sessions() {
    return Promise.resolve({ sessions: [], next: null });
  }

  deleteSession(id: string): Promise<void> {
    this.deleted.push(id);
    this.opened.at(-1)?.listeners.gone?.({ why: "deleted" }); // all who read it are told, before the reply
    return Promise.resolve();
  }

  open(): void {
    this.state = "connecting";
  }

  close(): void {
    this.state = "closed";
  }
}

const browser = { hash: "", pathname: "/", search: "", events: new EventTarget() };

beforeEach(() => {
  vi.unstubAllGlobals();
  browser.hash = "";
  browser.events = new EventTarget();
  vi.stubGlobal("location", browser);
  vi.stubGlobal("window", browser.events);
  vi.stubGlobal("document", Object.assign(new EventTarget(), { visibilityState: "visible" }));
  vi.stubGlobal("requestAnimationFrame", () => 0);
  vi.stubGlobal("history", {
    replaceState: (_: unknown, __: string, url: string) => (browser.hash = url.startsWith("#") ? url : ""),
  });
});

interface Opened {
  page: Page;
  client: FakeClient;
  tab: MemoryStore;
  session: () => FakeSession;
}

/** A page that is connected and knows the models. */
async function opened(hash = "", tab = new MemoryStore()): Promise<Opened> {
  browser.hash = hash;
  const client = new FakeClient();
  const settings = new Settings(new MemoryStore());
  const page = new Page({ client: client as unknown as Client, token: new Token(tab), settings, tab });
  page.start();
  client.tell("state", { state: "open", transport: "websocket" });
  await settled();
  return { page, client, tab, session: () => client.opened.at(-1) as FakeSession };
}

function goTo(hash: string): void {
  browser.hash = hash;
  browser.events.dispatchEvent(new Event("hashchange"));
}

test("a message goes to the session with what was chosen, and is not sent twice while none was made", async () => {
  const { page, session } = await opened();
  page.settings.set("system", " Be brief. ");
  expect(page.say("Hello.")).toBe(true);
  const chosen = { model: "openai/one", params: {}, on_busy: "queue", system: "Be brief." };
  expect(session().asked).toEqual([["send", "Hello.", chosen]]);
  session().requests = [{ error: null }];
  expect(page.say("Hello again.")).toBe(false);
  session().requests = [{ error: { code: "limit.rate", message: "slowly" } }];
  expect(page.say("Hello again.")).toBe(true);
});

test("nothing is sent by who may only read, nor where there is nothing to say", async () => {
  const { page, session } = await opened("#s_1");
  expect(page.say("")).toBe(false);
  session().rights = [];
  expect(page.say("Hello.")).toBe(false);
  expect(session().asked).toEqual([]);
});

test("the session's model comes before the last choice, and a choice in it before both", async () => {
  const { page, session, tab } = await opened("#s_1");
  page.settings.set("model", "openai/one");
  session().state.model = "scripted/lorem";
  expect(page.model).toBe("scripted/lorem");
  page.chooseModel("openai/one");
  expect(page.model).toBe("openai/one");
  const again = await opened("#s_1", tab);
  again.session().state.model = "scripted/lorem";
  expect(again.page.model).toBe("openai/one");
  goTo("#s_2");
  again.session().state.model = "scripted/lorem";
  expect(again.page.model).toBe("scripted/lorem");
});

test("the address opens sessions, and closes the one before", async () => {
  const { client, page, session } = await opened("#s_1");
  const first = session();
  goTo("#s_2");
  expect([first.asked.at(-1), page.session.id]).toEqual([["close"], "s_2"]);
  goTo("#s_2");
  expect(client.opened.length).toBe(2);
  goTo("#prompt");
  expect(page.session.id).toBeNull();
});

test("the session that a first message makes has the address from then on", async () => {
  const { session } = await opened();
  session().listeners.made?.({ id: "s_9", stream: "r_1" });
  expect(browser.hash).toBe("#s_9");
});

test("a session that is gone says so, and leaves a new chat; the one that is deleted here says nothing", async () => {
  const { page, client, session } = await opened("#s_1");
  session().listeners.gone?.({ why: "unknown" });
  expect([page.session.id, browser.hash]).toEqual([null, ""]);
  expect(page.notices.now?.text).toContain("not in it");
  page.notices.clear();
  goTo("#s_2");
  const deleting = page.delete("s_2", "Two");
  page.question?.answer(true);
  await deleting;
  expect([client.deleted, page.notices.now]).toEqual([["s_2"], null]);
});

test("nothing is deleted without a yes", async () => {
  const { page, client } = await opened();
  const deleting = page.delete("s_2", "");
  expect(page.question?.text).toBe("Delete “Untitled” for everybody in it?");
  page.question?.answer(false);
  await deleting;
  expect([client.deleted, page.question]).toEqual([[], null]);
});

test("others are told of typing: not at every key, and once that it has ended", async () => {
  const { page, session } = await opened("#s_1");
  page.typed(true);
  expect(session().asked).toEqual([]); // nobody else is in it
  session().state.members = [
    { user: "ann", role: "owner" },
    { user: "bob", role: "editor" },
  ];
  for (const typing of [true, true, false, false]) page.typed(typing);
  expect(session().asked).toEqual([
    ["type", true],
    ["type", false],
  ]);
});

test("what to do with a message while an answer runs is forgotten when none does", async () => {
  const { page, session } = await opened("#s_1");
  const turn = { turn: "t_1", stream: "r_1", model: "", message: "m_1", user: "ann", state: "running" as const };
  session().state.turns = [turn as SessionState["turns"][number]];
  session().listeners.change?.({});
  page.show({ onBusy: "interrupt" });
  page.say("At once.");
  expect(session().asked.at(-1)?.[2]).toMatchObject({ on_busy: "interrupt" });
  session().state.turns = [];
  session().listeners.change?.({});
  expect(page.onBusy).toBe("queue");
});

test("a forgotten token leaves nothing of what was seen with it", async () => {
  const { page, client, session, tab } = await opened("#s_1");
  session().state.title = "A secret";
  page.draft = "secret too";
  page.save();
  page.forgetToken();
  expect([...tab.held.values()].join("").toLowerCase()).not.toContain("secret");
  expect([client.state, page.notices.now?.action]).toEqual(["closed", "Connect again"]);
});

test("a refused connection says why and offers to try again; one for want of a token asks for it", async () => {
  const { page, client } = await opened();
  client.tell("state", { state: "refused", transport: null, code: 4503, reason: "no" });
  expect(page.notices.now?.text).toBe("The server refused the connection (4503: no).");
  page.notices.now?.act();
  expect([client.state, page.notices.now]).toEqual(["connecting", null]);
  client.tell("state", { state: "refused", transport: null, code: 4501 });
  client.tell("token", { why: "required" });
  expect([page.notices.now, page.access.why]).toEqual([null, "This server wants to know who uses it."]);
});
