// Each case is a claim about what a person sees.  All run at the same time, against the server whose address is given;
// what became of each is printed as one line of JSON.

import { useChat } from '@ai-sdk/react';
import { lastAssistantMessageIsCompleteWithToolCalls } from 'ai';
import assert from 'node:assert/strict';
import { createElement } from 'react';
import { act, create } from 'react-test-renderer';
import { Line, chatOf, counted, kinds, last, logOf, parts, says, stop, textOf, thoughtOf, transport, until } from './page.mjs';

const url = process.argv[2];
const count = params => ({ model: 'scripted/count', params });
const hi = { text: 'hi' };
const TOOLS = { weather: { description: 'The weather', inputSchema: { type: 'object' } } };

async function same(message) {
  const log = await logOf(url, message.metadata.stream);
  assert.equal(textOf(message), log.text);
  assert.equal(thoughtOf(message), log.thinking);
  return log;
}

// A component with nothing but the hook, as a page would have it.
async function mounted(options) {
  const seen = {};
  const Page = () => {
    Object.assign(seen, useChat(options));
    return null;
  };
  let root;
  await act(async () => {
    root = create(createElement(Page));
  });
  return { seen, unmount: () => act(async () => root.unmount()) };
}

const CASES = {
  async text_reasoning_and_usage_are_shown() {
    const { chat, told } = chatOf(url, 'plain', count({ tokens: 20, rate: 0, thinking_tokens: 10 }));
    await chat.sendMessage(hi);
    assert.equal(chat.status, 'ready');
    assert.equal(chat.messages.length, 2);
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

  async a_dropped_answer_is_resumed_and_nothing_is_doubled() {
    const line = await Line.to(url);
    const { chat } = chatOf(line.url, 'dropped', count({ tokens: 400, rate: 120, thinking_tokens: 120 }));
    let running = chat.sendMessage(hi);
    for (const where of ['thinking', 'text', 'text']) {
      const shown = () => (where === 'text' ? textOf : thoughtOf)(last(chat) ?? { parts: [] }).length;
      const before = shown();
      await until(() => last(chat)?.role === 'assistant' && shown() > before + 20, `more ${where}`);
      line.cut();
      await running;
      assert.equal(chat.status, 'error');
      running = chat.resumeStream();
    }
    await running;
    assert.equal(chat.status, 'ready');
    assert.equal(chat.messages.length, 2);
    assert.equal(kinds(last(chat)), 'step-start reasoning text');
    assert.equal(textOf(last(chat)), counted(400));
    const log = await same(last(chat));
    assert.equal(log.end.reason, 'complete');
    assert.deepEqual(log.seams, []);
    line.close();
  },

  async a_page_that_is_loaded_anew_resumes_by_itself_and_stops() {
    const { chat } = chatOf(url, 'reloaded', count({ tokens: 5000, rate: 100, thinking_tokens: 5 }));
    const first = chat.sendMessage(hi);
    await says(chat, 20);
    const kept = structuredClone(chat.messages); // as an application may have kept them: the half answer too
    await chat.stop();
    await first;
    const { seen, unmount } = await mounted({ id: 'reloaded', messages: kept, resume: true, transport: transport(url) });
    const held = textOf(kept[1]).length;
    await until(() => seen.status === 'streaming' && textOf(seen.messages[1]).length > held + 20, 'the resumed text');
    assert.equal(kinds(seen.messages[1]), 'step-start reasoning text');
    const stopped = await stop(url, 'reloaded');
    await until(() => seen.status === 'ready', 'the end');
    const [, message] = seen.messages;
    const log = await same(message);
    assert.equal(stopped.stream, message.metadata.stream);
    assert.equal(log.end.reason, 'cancelled');
    assert.equal(log.end.upto, stopped.offset);
    assert.ok(message.parts.slice(1).every(part => part.state === 'done'));
    assert.equal(seen.error, undefined);
    const before = structuredClone(seen.messages);
    await act(() => seen.resumeStream());
    assert.equal(seen.status, 'ready');
    assert.deepEqual(seen.messages, before, 'nothing runs any more');
    await unmount();
  },

  async a_page_that_kept_nothing_gets_the_whole_answer() {
    const { chat } = chatOf(url, 'bare', count({ tokens: 300, rate: 100 }));
    const first = chat.sendMessage(hi);
    await says(chat, 20);
    const { seen, unmount } = await mounted({ id: 'bare', resume: true, transport: transport(url) });
    await until(() => seen.messages.length === 1 && seen.status === 'ready', 'the end');
    await first;
    assert.equal(textOf(seen.messages[0]), counted(300));
    assert.deepEqual(seen.messages[0].parts, last(chat).parts);
    await unmount();
  },

  async a_stop_in_the_page_alone_lets_the_answer_go_on() {
    const { chat, told } = chatOf(url, 'local', count({ tokens: 300, rate: 100 }));
    const running = chat.sendMessage(hi);
    await says(chat, 20);
    await chat.stop();
    await running;
    assert.ok(told[0].isAbort);
    assert.ok(textOf(last(chat)).length < counted(300).length);
    await chat.resumeStream();
    assert.equal(textOf(last(chat)), counted(300));
    assert.equal(chat.messages.length, 2);
  },

  async nothing_to_resume_changes_nothing() {
    const { chat } = chatOf(url, 'never asked', {});
    await chat.resumeStream();
    assert.deepEqual([chat.status, chat.messages, chat.error], ['ready', [], undefined]);
    assert.equal((await stop(url, 'never asked', 'DELETE')).stream, null);
  },

  async an_answer_that_ended_meanwhile_can_be_had_whole() {
    const line = await Line.to(url);
    const { chat } = chatOf(line.url, 'meanwhile', {}, {
      transport: transport(line.url, count({ tokens: 60, rate: 150 }), {
        prepareReconnectToStreamRequest: ({ api, id }) => ({ api: `${api}/${encodeURIComponent(id)}/stream?ended=1` }),
      }),
    });
    const running = chat.sendMessage(hi);
    await says(chat, 20);
    line.cut();
    await running;
    await until(async () => (await logOf(url, last(chat).metadata.stream)).end, 'the end');
    await chat.resumeStream();
    assert.equal(chat.messages.length, 2);
    assert.equal(kinds(last(chat)), 'step-start text');
    assert.equal(textOf(last(chat)), counted(60));
    line.close();
  },

  async a_tool_of_the_page_is_called_and_the_answer_goes_on_in_the_same_message() {
    const line = await Line.to(url);
    const calls = [];
    const script = { tokens: 180, rate: 90, thinking_tokens: 4, tool_call: { name: 'weather', arguments: { city: 'Oslo' } } };
    const { chat } = chatOf(line.url, 'tools', { ...count(script), tools: TOOLS }, {
      sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
      onToolCall: ({ toolCall }) => {
        calls.push(toolCall);
        chat.addToolOutput({ tool: toolCall.toolName, toolCallId: toolCall.toolCallId, output: { celsius: 7 } });
      },
    });
    const running = chat.sendMessage(hi);
    await until(() => last(chat)?.parts.filter(part => part.type === 'text').at(1)?.text.length > 20, 'the second answer');
    const id = last(chat).id;
    line.cut();
    await running;
    await until(() => chat.status === 'error', 'the drop');
    await chat.resumeStream();
    assert.equal(chat.messages.length, 2, 'the second answer went into the first one’s message');
    const message = last(chat);
    assert.equal(message.id, id);
    assert.equal(kinds(message), 'step-start reasoning text tool-weather step-start reasoning text');
    assert.deepEqual(calls.map(call => [call.toolName, call.input, call.dynamic]), [['weather', { city: 'Oslo' }, undefined]]);
    const [tool] = parts(message, 'tool-weather');
    assert.deepEqual([tool.state, tool.input, tool.output], ['output-available', { city: 'Oslo' }, { celsius: 7 }]);
    assert.deepEqual(parts(message, 'text').map(part => part.text), [counted(180), counted(180)]);
    assert.notEqual(message.metadata.stream, id);
    await chat.sendMessage(hi);
    assert.equal(chat.messages.length, 4, 'and what was done by then can be sent on');
    line.close();
  },

  async a_tool_that_the_page_did_not_declare_is_a_dynamic_one() {
    const { chat } = chatOf(url, 'dynamic', count({ tokens: 2, rate: 0, tool_call: { name: 'other', arguments: '{"a": 1}' } }));
    await chat.sendMessage(hi);
    const [tool] = parts(last(chat), 'dynamic-tool');
    assert.deepEqual([tool.toolName, tool.state, tool.input], ['other', 'input-available', { a: 1 }]);
  },

  async arguments_that_are_no_json_are_a_tool_error() {
    const script = count({ tokens: 2, rate: 0, tool_call: { name: 'weather', arguments: '{"city": ' } });
    const { chat } = chatOf(url, 'bad json', { ...script, tools: TOOLS });
    await chat.sendMessage(hi);
    const [tool] = parts(last(chat), 'tool-weather');
    assert.equal(tool.state, 'output-error');
    assert.match(tool.errorText, /JSON/);
    assert.equal(chat.status, 'ready');
  },

  async thinking_that_was_begun_anew_is_shown_once() {
    const script = { tokens: 10, rate: 100, thinking_tokens: 40, fail_at: 20, continuation: 'restart' };
    const { chat } = chatOf(url, 'again', count(script));
    await chat.sendMessage(hi);
    assert.equal(kinds(last(chat)), 'step-start reasoning text');
    const log = await same(last(chat));
    assert.deepEqual(log.seams, ['restart']);
  },

  async a_refusal_is_shown_in_words() {
    const { chat, told } = chatOf(url, 'refused', { model: 'nobody/knows' });
    await chat.sendMessage(hi);
    assert.equal(chat.status, 'error');
    assert.equal(chat.error.statusCode, 404);
    assert.match(chat.error.message, /^[^{}]{10,}$/);
    assert.ok(told[0].isError);
    assert.equal(chat.messages.length, 1, 'no empty answer stands under the question');
  },

  async a_failure_keeps_what_was_said_and_can_be_tried_again() {
    const script = { tokens: 30, rate: 0, fail_at: 10, fail_code: 'provider.invalid', continuation: 'none' };
    const { chat } = chatOf(url, 'failed', count(script));
    await chat.sendMessage(hi);
    assert.equal(chat.status, 'error');
    assert.ok(chat.error.message.length > 10);
    assert.match(textOf(last(chat)), /^1 2 3/);
    await chat.regenerate({ body: count({ tokens: 30, rate: 0 }) });
    assert.equal(chat.status, 'ready');
    assert.equal(textOf(last(chat)), counted(30));
  },

  async nothing_is_lost_where_the_line_is_cut_before_the_first_word() {
    const line = await Line.to(url);
    const { chat } = chatOf(line.url, 'early', count({ tokens: 150, rate: 100, ttft_ms: 1000 }));
    const running = chat.sendMessage(hi);
    await until(async () => (await fetch(`${url}/api/chat/early/stream`, { method: 'GET' }).then(answer => {
      answer.body?.cancel();
      return answer.status === 200;
    })), 'the answer to begin');
    line.cut();
    await running;
    await chat.resumeStream();
    assert.equal(textOf(last(chat)), counted(150));
    assert.equal(chat.messages.length, 2);
    line.close();
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
process.exit(0);
