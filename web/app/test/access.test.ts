// Being let in.

import { type ClientEvents, CommandError, type ConnectionState } from "@everstream/client";
import { expect, test } from "vitest";

import { Access } from "../src/state/access.ts";
import { Notices } from "../src/state/notices.ts";
import { EXPIRED, EXPIRING, REFUSED, Token, WANTED } from "../src/state/token.ts";
import { MemoryStore } from "./doubles.ts";

type Listeners = { [K in keyof ClientEvents]?: (value: ClientEvents[K]) => void };

/** A door that does what it is told, and a wrong token that it knows. */
function door(token = "") {
  const listeners: Listeners = {};
  const done: string[] = [];
  const store = new MemoryStore();
  const known = new Token(store);
  if (token !== "") known.keep(token);
  const client = {
    state: "open" as ConnectionState,
    on<K extends keyof ClientEvents>(event: K, listener: (value: ClientEvents[K]) => void): () => void {
      listeners[event] = listener as never;
      return () => {};
    },
    open: () => void done.push("open"),
    close(): void {
      done.push("close");
      this.state = "closed";
    },
    renew(shown: string): Promise<void> {
      done.push(`renew ${shown}`);
      const wrong = new CommandError({ code: "auth.denied", message: "nobody has it" });
      return shown === "wrong" ? Promise.reject(wrong) : Promise.resolve();
    },
  };
  const notices = new Notices();
  const access = new Access({ client, token: known, notices });
  const tell = (why: ClientEvents["token"]["why"]): void => listeners.token?.({ why });
  return { access, client, done, known, listeners, notices, store, tell };
}

test("a server that wants a token has it asked for, kept and shown", async () => {
  const { access, client, done, store, tell } = door();
  tell("required");
  expect(access.why).toBe(WANTED);
  expect(client.state).toBe("closed");
  await access.enter("  a key\n");
  expect(access.why).toBeNull();
  expect(done).toEqual(["close", "open"]);
  expect([...store.held.values()]).toEqual(["a key"]);
});

test("a token that is refused is forgotten, and nobody comes back with it", () => {
  const { access, done, known, tell } = door("old");
  tell("refused");
  expect([access.why, known.value]).toEqual([REFUSED, ""]);
  expect(done).toEqual(["close"]);
});

test("an expired token ends the connection, and is asked for anew", () => {
  const { access, done, listeners } = door("old");
  listeners.state?.({ state: "waiting", transport: null, code: 4005, inMs: 10 });
  expect(access.why).toBe(EXPIRED);
  expect(done).toEqual(["close"]);
});

test("where there is time, the open connection is shown the new one and goes on", async () => {
  const { access, done, known, notices, tell } = door("old");
  tell("expiring");
  expect([access.why, notices.now?.text]).toEqual([null, EXPIRING]);
  notices.now?.act();
  await access.enter("wrong");
  expect(access.why).toBe("This token does not do: nobody has it.");
  expect(known.value).toBe("old");
  await access.enter("new");
  expect([access.why, known.value, notices.now]).toEqual([null, "new", null]);
  expect(done).toEqual(["renew wrong", "renew new", "open"]);
});

test("who leaves without one is offered to enter it later", () => {
  const { access, notices, tell } = door();
  tell("required");
  access.leave();
  expect([access.why, notices.now?.action]).toEqual([null, "Enter a token"]);
  notices.now?.act();
  expect(access.why).toBe(WANTED);
});
