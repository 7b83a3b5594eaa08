// The same claims over the client's connection: `useChat` with the transport of `@everstream/client/ai`.  The second
// argument is the folder of the built client.  Each case has connections of its own, and all run at the same time.

import { useChat } from '@ai-sdk/react';
import { lastAssistantMessageIsCompleteWithToolCalls } from 'ai';
import assert from 'node:assert/strict';
import { pathToFileURL } from 'node:url';
import { StrictMode, createElement } from 'react';
import { act, create } from 'react-test-renderer';
import { Line, chatOf, counted, kinds, last, logOf, parts, says, textOf, thoughtOf, until } from './page.mjs';

const [, , url, built] = process.argv;
const { Client } = await import(pathToFileURL(`${built}/index.js`));
const { EverstreamChatTransport } = await import(pathToFileURL(`${built}/ai.js`));

const hi = { text: 'hi' };
const TOOLS = { weather: { description: 'The weather', inputSchema: { type: 'object' } } };
const clients = [];

class Tab {
  kept = new Map();
  getItem = key => this.kept.get(key) ?? null;
  setItem = (key, value) => void this.kept.set(key, value);
  removeItem = key => void this.kept.delete(key);
}

// A page as it is after it was loaded: what it keeps over a reload is in its tab.
function page({ at = url, tab = new Tab(), ...options } = {}) {
  const client = new Client({ url: `${at.replace('http', 'ws')}/ws`, storage: tab });
  clients.push(client);
  const transport = new EverstreamChatTransport({ client, model: 'scripted/count', storage: tab, ...options });
  return { client, tab, transport, chat: (id, more = {}) => chatOf(url, id, {}, { transport, ...more }) };
}

async function mounted(options, around = children => children) {
  const seen = {};
  const Page = () => {
    Object.assign(seen, useChat(options));
    return null;
  };
  let root;
  await act(async () => {
    root = create(around(createElement(Page)));
  });
  return { seen, unmount: () => act(async () => root.unmount()) };
}

async function same(message) {
  const log = await logOf(url, message.metadata.stream);
  assert.equal(textOf(message), log.text);
  assert.equal(thoughtOf(message), log.thinking);
  return log;
}

const ended = stream => until(async () => (await logOf(url, stream)).end, 'the end');

const CASES = {
  async text_reasoning_and_usage_are_shown() {
    const { chat, told } = page({ params: { tokens: 20, rate: 0, thinking_tokens: 10 } }).chat('plain');
    await chat.sendMessage(hi);
    assert.equal(chat.status, 'ready', chat.error?.stack);
    const message = last(chat);
    assert.equal(kinds(message), 'step-start reasoning text');
    assert.ok(message.parts.slice(1).every(part => part.state === 'done'));
    assert.equal(textOf(message), counted(20));
    assert.equal(message.id, message.metadata.stream);
    assert.equal(message.metadata.usage.outputTokens, 30);
    assert.deepEqual([told.length, told[0].finishReason, told[0].isError, told[0].isAbort], [1, 'stop', false, false]);
    await same(message);
    await chat.regenerate();
    assert.equal(chat.messages.length, 2);
    assert.notEqual(last(chat).metadata.stream, message.metadata.stream);
  },

  async a_page_does_not_notice_that_its_connection_was_lost() {
    const line = await Line.to(url);
    const { chat, told } = page({ at: line.url, params: { tokens: 400, rate: 120, thinking_tokens: 120 } }).chat('cut');
    const running = chat.sendMessage(hi);
    for (const shown of [thoughtOf, textOf, textOf]) {
      const now = () => shown(last(chat)?.role === 'assistant' ? last(chat) : { parts: [] }).length;
      const before = now();
      await until(() => now() > before + 20, 'more');
      line.cut();
    }
    await running;
    assert.equal(chat.status, 'ready', chat.error?.stack);
    assert.deepEqual([told.length, told[0].isError, chat.messages.length], [1, false, 2]);
    assert.equal(kinds(last(chat)), 'step-start reasoning text');
    assert.equal(textOf(last(chat)), counted(400));
    assert.deepEqual((await same(last(chat))).seams, []);
    line.close();
  },

  async a_page_that_is_loaded_anew_resumes_by_itself_and_nothing_is_doubled() {
    const first = page({ params: { tokens: 300, rate: 100, thinking_tokens: 5 } });
    const { chat } = first.chat('reloaded');
    chat.sendMessage(hi);
    await says(chat, 20);
    const kept = structuredClone(chat.messages);
    first.client.close();
    const second = page({ tab: first.tab });
    const options = { id: 'reloaded', messages: kept, resume: true, transport: second.transport };
    const { seen, unmount } = await mounted(options);
    await until(() => seen.status === 'ready' && textOf(seen.messages.at(-1)) === counted(300), 'the whole answer');
    assert.equal(seen.messages.length, 2);
    assert.equal(kinds(seen.messages[1]), 'step-start reasoning text');
    await same(seen.messages[1]);
    const before = structuredClone(seen.messages);
    await act(() => seen.resumeStream());
    assert.deepEqual([seen.status, seen.messages], ['ready', before], 'there is nothing to resume any more');
    assert.deepEqual([...first.tab.kept], [], 'and nothing is kept of it');
    await unmount();
  },

  async a_page_that_kept_nothing_gets_an_answer_that_ended_meanwhile() {
    const first = page({ params: { tokens: 150, rate: 100 } });
    const { chat } = first.chat('bare');
    chat.sendMessage(hi);
    await says(chat, 20);
    first.client.close();
    assert.ok(textOf(last(chat)).length < counted(150).length);
    await ended(last(chat).metadata.stream);
    const { chat: again } = page({ tab: first.tab }).chat('bare');
    await again.resumeStream();
    assert.equal(again.messages.length, 1);
    assert.equal(textOf(again.messages[0]), counted(150));
  },

  async what_was_asked_without_a_connection_is_answered_after_a_reload() {
    const line = await Line.to(url);
    line.close();
    const first = page({ at: line.url, params: { tokens: 30, rate: 0 } });
    const { chat } = first.chat('offline');
    chat.sendMessage(hi);
    await until(() => first.client.state === 'waiting', 'no connection');
    assert.equal(chat.status, 'submitted');
    first.client.close();
    const { chat: again } = page({ tab: first.tab }).chat('offline', { messages: structuredClone(chat.messages) });
    await again.resumeStream();
    assert.equal(again.messages.length, 2);
    assert.equal(textOf(last(again)), counted(30));
  },

  async a_stop_ends_the_answer_for_everybody() {
    const { chat, told } = page({ params: { tokens: 5000, rate: 100 } }).chat('stopped');
    const running = chat.sendMessage(hi);
    await says(chat, 20);
    await chat.stop();
    await running;
    assert.ok(told[0].isAbort);
    const end = await ended(last(chat).metadata.stream);
    assert.equal(end.reason, 'cancelled');
    const log = await logOf(url, last(chat).metadata.stream);
    assert.ok(log.text.startsWith(textOf(last(chat))));
    await chat.resumeStream();
    assert.deepEqual([chat.status, chat.messages.length], ['ready', 2]);
    assert.ok(log.text.startsWith(textOf(last(chat))));
  },

  async a_stop_by_its_fence_shows_all_that_was_said() {
    const { chat: chatOfPage, transport } = page({ params: { tokens: 5000, rate: 100, thinking_tokens: 5 } });
    const { chat } = chatOfPage('fence');
    const running = chat.sendMessage(hi);
    await says(chat, 20);
    const fence = await transport.stop('fence');
    await running;
    assert.equal(chat.status, 'ready');
    assert.equal(fence.stream, last(chat).metadata.stream);
    const log = await same(last(chat));
    assert.deepEqual([log.end.reason, log.end.upto], ['cancelled', fence.offset]);
    assert.ok(last(chat).parts.slice(1).every(part => part.state === 'done'));
    assert.equal(await transport.stop('fence'), null);
  },

  async a_page_may_only_leave_an_answer_and_come_back_to_it() {
    const { chat, told } = page({ params: { tokens: 200, rate: 100 }, onAbort: 'leave' }).chat('left');
    const running = chat.sendMessage(hi);
    await says(chat, 20);
    await chat.stop();
    await running;
    assert.ok(told[0].isAbort);
    assert.ok(textOf(last(chat)).length < counted(200).length);
    await chat.resumeStream();
    assert.equal(textOf(last(chat)), counted(200));
    assert.equal(chat.messages.length, 2);
  },

  async a_page_that_is_drawn_twice_stops_nothing() {
    const first = page({ params: { tokens: 200, rate: 100 } });
    const { chat } = first.chat('twice');
    chat.sendMessage(hi);
    await says(chat, 20);
    const messages = structuredClone(chat.messages);
    first.client.close();
    const { transport } = page({ tab: first.tab });
    const strictly = children => createElement(StrictMode, null, children);
    const { seen, unmount } = await mounted({ id: 'twice', messages, resume: true, transport }, strictly);
    await until(() => seen.status === 'ready' && textOf(seen.messages[1]).length >= counted(200).length, 'the end');
    assert.equal((await same(seen.messages[1])).end.reason, 'complete');
    await unmount();
  },

  async nothing_to_resume_changes_nothing() {
    const { chat } = page().chat('never asked');
    await chat.resumeStream();
    assert.deepEqual([chat.status, chat.messages, chat.error], ['ready', [], undefined]);
  },

  async chats_of_one_connection_are_kept_apart() {
    const { chat } = page();
    const bodies = [50, 60, 70].map(tokens => ({ body: { params: { tokens, rate: 300 } } }));
    const chats = bodies.map((_, n) => chat(`apart ${n}`).chat);
    await Promise.all(chats.map((each, n) => each.sendMessage(hi, bodies[n])));
    assert.deepEqual(chats.map(each => textOf(last(each))), [counted(50), counted(60), counted(70)]);
  },

  async a_tool_of_the_page_is_called_and_the_answer_goes_on_in_the_same_message() {
    const calls = [];
    const tool_call = { name: 'weather', arguments: { city: 'Oslo' } };
    const first = page({ tools: TOOLS, params: { tokens: 180, rate: 90, thinking_tokens: 4, tool_call } });
    const { chat } = first.chat('tools', {
      sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
      onToolCall: ({ toolCall }) => {
        calls.push(toolCall);
        chat.addToolOutput({ tool: toolCall.toolName, toolCallId: toolCall.toolCallId, output: { celsius: 7 } });
      },
    });
    chat.sendMessage(hi);
    await until(() => last(chat)?.parts.filter(part => part.type === 'text').at(1)?.text.length > 20, 'the second answer');
    const { id } = last(chat);
    const kept = structuredClone(chat.messages);
    first.client.close();
    const { chat: again } = page({ tab: first.tab }).chat('tools', { messages: kept, onToolCall: call => calls.push(call) });
    await again.resumeStream();
    assert.equal(again.messages.length, 2, 'the second answer went into the first one’s message');
    const message = last(again);
    assert.equal(message.id, id);
    assert.equal(kinds(message), 'step-start reasoning text tool-weather step-start reasoning text');
    assert.deepEqual(calls.map(call => [call.toolName, call.input, call.dynamic]), [['weather', { city: 'Oslo' }, undefined]]);
    const [tool] = parts(message, 'tool-weather');
    assert.deepEqual([tool.state, tool.input, tool.output], ['output-available', { city: 'Oslo' }, { celsius: 7 }]);
    assert.deepEqual(parts(message, 'text').map(part => part.text), [counted(180), counted(180)]);
    await again.sendMessage(hi, { body: { params: { tokens: 3, rate: 0 } } });
    assert.deepEqual([again.messages.length, textOf(last(again))], [4, counted(3)], 'and what was done can be sent on');
  },

  async a_call_that_was_half_said_at_a_reload_is_said_once() {
    const tool_call = { name: 'weather', arguments: { city: 'Oslo' } };
    const first = page({ tools: TOOLS, params: { tokens: 150, rate: 100, tool_call } });
    const { chat } = first.chat('half a call');
    chat.sendMessage(hi);
    await says(chat, 20);
    const kept = structuredClone(chat.messages);
    kept[1].parts.push({ type: 'tool-weather', toolCallId: 'call_0', state: 'input-streaming', input: { city: 'Os' } });
    first.client.close();
    const { chat: again } = page({ tab: first.tab }).chat('half a call', { messages: kept });
    await again.resumeStream();
    assert.equal(kinds(last(again)), 'step-start text tool-weather');
    assert.equal(textOf(last(again)), counted(150));
    assert.deepEqual(parts(last(again), 'tool-weather').map(part => part.input), [{ city: 'Oslo' }]);
  },

  async a_tool_that_the_page_did_not_declare_is_a_dynamic_one() {
    const { chat } = page({ params: { tokens: 2, rate: 0, tool_call: { name: 'other', arguments: '{"a": 1}' } } }).chat('dynamic');
    await chat.sendMessage(hi);
    const [tool] = parts(last(chat), 'dynamic-tool');
    assert.deepEqual([tool.toolName, tool.state, tool.input], ['other', 'input-available', { a: 1 }]);
  },

  async arguments_that_are_no_json_are_a_tool_error() {
    const params = { tokens: 2, rate: 0, tool_call: { name: 'weather', arguments: '{"city": ' } };
    const { chat } = page({ tools: TOOLS, params }).chat('bad json');
    await chat.sendMessage(hi);
    const [tool] = parts(last(chat), 'tool-weather');
    assert.equal(tool.state, 'output-error');
    assert.match(tool.errorText, /JSON/);
    assert.equal(chat.status, 'ready');
  },

  async thinking_that_was_begun_anew_is_shown_once() {
    const params = { tokens: 10, rate: 100, thinking_tokens: 40, fail_at: 20, continuation: 'restart' };
    const { chat } = page({ params }).chat('again');
    await chat.sendMessage(hi);
    assert.equal(kinds(last(chat)), 'step-start reasoning text');
    assert.deepEqual((await same(last(chat))).seams, ['restart']);
  },

  async a_refusal_is_shown_in_words_and_by_its_code() {
    const { chat, told } = page({ model: 'nobody/knows' }).chat('refused');
    await chat.sendMessage(hi);
    assert.equal(chat.status, 'error');
    assert.equal(chat.error.code, 'model.unknown');
    assert.match(chat.error.message, /^[^{}]{10,}$/);
    assert.ok(told[0].isError);
    assert.equal(chat.messages.length, 1, 'no empty answer stands under the question');
  },

  async a_failure_keeps_what_was_said_and_can_be_tried_again() {
    const params = { tokens: 30, rate: 0, fail_at: 10, fail_code: 'provider.invalid', continuation: 'none' };
    const { chat } = page({ params }).chat('failed');
    await chat.sendMessage(hi);
    assert.deepEqual([chat.status, chat.error.code], ['error', 'provider.invalid']);
    assert.match(textOf(last(chat)), /^1 2 3/);
    await same(last(chat));
    await chat.regenerate({ body: { params: { tokens: 30, rate: 0 } } });
    assert.equal(chat.status, 'ready');
    assert.equal(textOf(last(chat)), counted(30));
  },
};

globalThis.IS_REACT_ACT_ENVIRONMENT = false;
const errors = console.error;
console.error = (...said) => /react-test-renderer is deprecated|not configured to support act/.test(String(said[0])) || errors(...said);

await Promise.all(Object.entries(CASES).map(async ([name, run]) => {
  const began = performance.now();
  const fault = await run().then(() => null, error => error.stack ?? String(error));
  console.log(JSON.stringify({ name, fault, seconds: (performance.now() - began) / 1000 }));
}));
for (const client of clients) client.close();
process.exit(0);
