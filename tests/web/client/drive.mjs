// The TypeScript client as a program that a test drives: orders come as lines of JSON, and so does what has happened.
//
//     node drive.mjs DIST OPTIONS     DIST: where the built client is; OPTIONS: what the client is made with, and
//                                     `tokens`: what a token function gives, one after the other

import { createInterface } from "node:readline";

const [dist, given] = process.argv.slice(2);
const { Client } = await import(`${dist}/index.js`);
const { tokens, ...options } = JSON.parse(given);
// The road is the test's, and what is measured is not how long a client waits: it comes back within 50 ms.
const random = () => Math.random() * 0.2;
const client = new Client({ ...options, random, ...(tokens && { token: () => (tokens.length > 1 ? tokens.shift() : tokens[0]) }) });
const streams = new Map();
const sessions = new Map();

function tell(event, fields) {
  console.log(JSON.stringify({ event, ...fields }));
}

client.on("state", ({ state, transport, code }) => tell("state", { state, transport, code }));
client.on("token", ({ why }) => tell("token", { why }));
client.on("error", ({ code }) => tell("error", { code }));

/** Read a stream in all ways that there are, and tell of what each has given. */
async function read(name, stream) {
  streams.set(name, stream);
  let parts = "";
  let pieces = "";
  const inParts = (async () => {
    for await (const part of stream) {
      if (part.type === "text") parts += part.text;
      if (part.type === "replace") parts = part.text;
    }
  })();
  for await (const piece of stream.textDeltas()) {
    pieces += piece;
    tell("grown", { name, stream: stream.id, length: pieces.length });
  }
  await inParts;
  const { text, reason } = await stream.result;
  tell("ended", { name, stream: stream.id, texts: [pieces, parts, text, stream.text], reason });
}

function look(name, session) {
  sessions.set(name, session);
  session.on("made", ({ id }) => tell("made", { name, id }));
  session.on("gone", ({ why }) => tell("gone", { name, why }));
  session.on("failed", ({ text }) => tell("failed", { name, text }));
  session.on("grown", ({ stream }) => tell("grown", { name, stream: stream.id, length: stream.text.length }));
  session.on("change", () => {
    const said = session.path.map(({ node }) => node.message?.content ?? null);
    const users = session.state.users.length;
    const turns = session.state.turns.length;
    tell("session", { name, id: session.id, said, turns, users, requests: session.requests.length, typing: session.typing });
  });
}

const failed = (name) => (error) => tell("failed", { name, code: error.code, text: String(error) });

const ORDERS = {
  open: () => client.open(),
  close: () => client.close(),
  wake: () => client.wake(),
  generate: ({ name, ...asked }) => void read(name, client.generate(asked)).catch(failed(name)),
  subscribe: ({ name, place }) => void read(name, client.subscribe(place)).catch(failed(name)),
  cancel: ({ name }) => void streams.get(name).cancel().then((fence) => tell("fence", { name, ...fence }), failed(name)),
  position: ({ name }) => tell("position", { name, position: streams.get(name).position }),
  session: ({ name, id }) => look(name, client.session(id ?? null)),
  send: ({ name, content, chosen }) => sessions.get(name).send(content, chosen),
  stop: ({ name }) => sessions.get(name).stop(),
  renew: ({ token }) => void client.renew(token).then(() => tell("renewed", {}), failed("renew")),
  /** The next command of this type goes out, and its reply finds nobody. */
  loseReply: ({ type }) => {
    const stop = client.on("frame", ({ direction, frame }) => {
      if (direction !== "out" || frame.type !== type) return;
      stop();
      setTimeout(() => {
        client.close();
        client.open();
      }, 0);
    });
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { order, ...fields } = JSON.parse(line);
  ORDERS[order](fields);
}
client.close();
