// Answers that are under way over the client's connection when their server dies.  `half` is said once all of them are.
// A page does nothing: the client comes back by itself when the server does.

import assert from 'node:assert/strict';
import { pathToFileURL } from 'node:url';
import { chatOf, counted, kinds, last, logOf, textOf, thoughtOf, until } from './page.mjs';

const [, , url, built] = process.argv;
const { Client } = await import(pathToFileURL(`${built}/index.js`));
const { EverstreamChatTransport } = await import(pathToFileURL(`${built}/ai.js`));
const CHATS = {
  text: { tokens: 300, rate: 60, thinking_tokens: 10 },
  thinking: { tokens: 30, rate: 60, thinking_tokens: 200, continuation: 'restart' },
};

const client = new Client({ url: `${url.replace('http', 'ws')}/ws` });
const transport = new EverstreamChatTransport({ client, model: 'scripted/count' });
const open = Object.entries(CHATS).map(([id, params]) => {
  const { chat, told } = chatOf(url, id, {}, { transport });
  return { id, params, chat, told, running: chat.sendMessage({ text: 'hi' }, { body: { params } }) };
});
for (const { id, chat } of open) {
  const shown = id === 'text' ? textOf : thoughtOf;
  await until(() => last(chat)?.role === 'assistant' && shown(last(chat)).length > 40, `some ${id}`);
}
console.log('half');
await Promise.all(open.map(async ({ id, params, chat, told, running }) => {
  await running;
  assert.equal(chat.status, 'ready', chat.error?.message);
  assert.deepEqual([told.length, chat.messages.length], [1, 2]);
  assert.equal(kinds(last(chat)), 'step-start reasoning text');
  assert.equal(textOf(last(chat)), counted(params.tokens));
  const log = await logOf(url, last(chat).metadata.stream);
  assert.equal(thoughtOf(last(chat)), log.thinking);
  assert.deepEqual(log.seams, [id === 'text' ? 'exact' : 'restart']);
}));
console.log('whole');
client.close();
process.exit(0);
