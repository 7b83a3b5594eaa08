// What a page with a chat is made of: the AI SDK's own packages, a line to the server that can be cut, and the log that
// everything shown is held against.

import { Chat } from '@ai-sdk/react';
import { DefaultChatTransport } from 'ai';
import net from 'node:net';

const WAIT_MS = 20_000;

export const counted = tokens => Array.from({ length: tokens }, (_, n) => n + 1).join(' ');

export async function until(condition, what) {
  const deadline = Date.now() + WAIT_MS;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`waited in vain: ${what}`);
    await new Promise(resolve => setTimeout(resolve, 5)); // pause: between two looks at a condition
  }
}

// A TCP proxy before the server.
export class Line {
  static async to(url) {
    const line = new Line();
    const { hostname, port } = new URL(url);
    line.pairs = new Set();
    line.server = net.createServer(near => {
      const far = net.connect({ host: hostname, port: Number(port) });
      const pair = [near, far];
      line.pairs.add(pair);
      const over = () => {
        line.pairs.delete(pair);
        pair.forEach(socket => socket.destroy());
      };
      for (const socket of pair) socket.on('error', over).on('close', over);
      near.pipe(far);
      far.pipe(near);
    });
    await new Promise(resolve => line.server.listen(0, '127.0.0.1', resolve));
    line.url = `http://127.0.0.1:${line.server.address().port}`;
    return line;
  }

  cut() {
    for (const pair of [...this.pairs]) pair.forEach(socket => socket.resetAndDestroy());
  }

  close() {
    this.cut();
    this.server.close();
  }
}

export const transport = (url, body = {}, more = {}) => new DefaultChatTransport({ api: `${url}/api/chat`, body, ...more });

// A chat as a page has it.  `body` goes with every request.
export function chatOf(url, id, body, more = {}) {
  const told = [];
  const chat = new Chat({
    id,
    transport: transport(url, body),
    onFinish: finish => told.push(finish),
    onError: () => {},
    ...more,
  });
  return { chat, told };
}

export const last = chat => chat.messages.at(-1);
export const parts = (message, type) => message.parts.filter(part => part.type === type);
export const textOf = message => parts(message, 'text').map(part => part.text).join('');
export const thoughtOf = message => parts(message, 'reasoning').map(part => part.text).join('');
export const kinds = message => message.parts.map(part => part.type).join(' ');

export const says = (chat, characters) => until(
  () => chat.messages.length > 0 && last(chat).role === 'assistant' && textOf(last(chat)).length >= characters,
  `${characters} characters of text`,
);

// What the log of a stream says: the truth.
export async function logOf(url, stream) {
  const response = await fetch(`${url}/v1/streams/${stream}`);
  const log = { text: '', thinking: '', end: null, seams: [] };
  for (const line of (await response.text()).split('\n')) {
    if (!line.startsWith('data: ')) continue;
    const entry = JSON.parse(line.slice(6));
    if (entry.type === 'delta_text') log.text += entry.text;
    if (entry.type === 'delta_thinking') log.thinking += entry.text;
    if (entry.type === 'seam') {
      log.seams.push(entry.continuation);
      if (entry.continuation === 'restart') log.thinking = '';
    }
    if (entry.type === 'stream_end') log.end = entry;
  }
  return log;
}

export async function stop(url, id, method = 'POST') {
  const path = method === 'POST' ? 'stop' : 'stream';
  return (await fetch(`${url}/api/chat/${encodeURIComponent(id)}/${path}`, { method })).json();
}
