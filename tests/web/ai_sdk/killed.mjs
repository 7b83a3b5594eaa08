// Answers that are under way when their server dies.  `half` is said once all of them are, and whatever is said then on
// the standard input means that the server is back.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chatOf, counted, kinds, last, logOf, textOf, thoughtOf, until } from './page.mjs';

const url = process.argv[2];
const CHATS = {
  text: { tokens: 300, rate: 60, thinking_tokens: 10 },
  thinking: { tokens: 30, rate: 60, thinking_tokens: 200, continuation: 'restart' },
};

const open = Object.entries(CHATS).map(([id, params]) => {
  const { chat } = chatOf(url, id, { model: 'scripted/count', params });
  return { id, params, chat, running: chat.sendMessage({ text: 'hi' }) };
});
for (const { id, chat } of open) {
  const shown = id === 'text' ? textOf : thoughtOf;
  await until(() => last(chat)?.role === 'assistant' && shown(last(chat)).length > 40, `some ${id}`);
}
console.log('half');
await once(process.stdin, 'data');
await Promise.all(open.map(async ({ id, params, chat, running }) => {
  await running;
  assert.equal(chat.status, 'error');
  await chat.resumeStream();
  assert.equal(chat.status, 'ready', chat.error?.message);
  assert.equal(chat.messages.length, 2);
  assert.equal(kinds(last(chat)), 'step-start reasoning text');
  assert.equal(textOf(last(chat)), counted(params.tokens));
  const log = await logOf(url, last(chat).metadata.stream);
  assert.equal(thoughtOf(last(chat)), log.thinking);
  assert.deepEqual(log.seams, [id === 'text' ? 'exact' : 'restart']);
}));
console.log('whole');
process.exit(0);
