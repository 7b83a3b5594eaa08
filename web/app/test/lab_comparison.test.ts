// Two conversations that are asked the same things: who is asked what, when, and what is known of the answers.

import { newStream } from "@everstream/client";
import type { GenerateOptions, Message, Stream, StreamEnd } from "@everstream/client";
import { describe, expect, test } from "vitest";

import { Comparison } from "../src/lab/comparison.ts";

type Listener = (value: never) => void;

/** An answer that comes when the test says so. */
class Answer {
  readonly asked: GenerateOptions;
  readonly state = newStream("r_1");
  readonly result: Promise<never>;
  id: string | null = "r_1";
  cancels = 0;
  stops = true;
  readonly #listeners = new Map<string, Listener[]>();
  refuse!: (error: Error) => void;

  constructor(asked: GenerateOptions) {
    this.asked = asked;
    this.result = new Promise<never>((_, refuse) => (this.refuse = refuse));
  }

  get text(): string {
    return this.state.text;
  }

  on(event: string, listener: Listener): () => void {
    this.#listeners.set(event, [...(this.#listeners.get(event) ?? []), listener]);
    return () => {};
  }

  cancel(): Promise<object> {
    this.cancels += 1;
    return this.stops ? Promise.resolve({}) : Promise.reject(new Error("too many commands"));
  }

  say(text: string, pieces = 1): void {
    this.state.ttft_ms ??= 120;
    this.state.text += text;
    this.state.pieces += pieces;
    this.#emit("change");
  }

  end(reason: StreamEnd["reason"] = "complete"): void {
    this.state.end = {
      reason,
      finish_reason: "stop",
      usage: { input_tokens: 3, output_tokens: 42, total_tokens: 45, source: "provider" },
      cost: { input: 0, output: 0.1, total: 0.1 },
      metrics: { ttft_ms: 110, stream_ms: 900, total_ms: 1_010, tokens_per_s: 46.7 },
      error: null,
      warnings: [],
    };
    this.#emit("change");
    this.#emit("end");
  }

  #emit(event: string): void {
    for (const listener of this.#listeners.get(event) ?? []) listener({} as never);
  }
}

interface Comparing {
  comparison: Comparison;
  answers: Answer[];
  clock: { now: number };
  last: () => [Answer, Answer];
}

function comparing(): Comparing {
  const answers: Answer[] = [];
  const clock = { now: 0 };
  const generate = (options: GenerateOptions): Stream => {
    answers.push(new Answer(options));
    return answers.at(-1) as unknown as Stream;
  };
  const comparison = new Comparison({ generate }, ["m/one", "m/other"], () => clock.now);
  return { comparison, answers, clock, last: () => answers.slice(-2) as [Answer, Answer] };
}

const said = (answer: Answer): string[] =>
  (answer.asked.messages as Message[]).map(({ role, content }) => `${role}: ${content as string}`);

describe("a comparison", () => {
  test("asks both the same, each with its own parameters", () => {
    const { comparison, answers } = comparing();
    comparison.sides[0].filled = { temperature: "0.5" };
    expect(comparison.ask("Why?")).toBe(true);
    expect(answers.map(({ asked }) => asked)).toEqual([
      { model: "m/one", messages: [{ role: "user", content: "Why?" }], params: { temperature: 0.5 } },
      { model: "m/other", messages: [{ role: "user", content: "Why?" }], params: {} },
    ]);
  });

  test("asks further with what each has said, and leaves out what got no answer", () => {
    const { comparison, last } = comparing();
    comparison.ask("One");
    const [one, other] = last();
    one.say("first");
    one.end();
    other.end("failed");
    comparison.ask("Two");
    expect(last().map(said)).toEqual([["user: One", "assistant: first", "user: Two"], ["user: Two"]]);
  });

  test("does not ask while one still answers, nor nothing", () => {
    const { comparison, answers, last } = comparing();
    expect(comparison.ask("  ")).toBe(false);
    comparison.ask("One");
    last()[0].end();
    expect([comparison.live, comparison.ask("Two"), comparison.again()]).toEqual([true, false, false]);
    expect(answers).toHaveLength(2);
    last()[1].end();
    expect([comparison.live, comparison.ask("Two")]).toEqual([false, true]);
  });

  test("has the figures as they come, and the server's at the end", () => {
    const { comparison, clock, last } = comparing();
    comparison.ask("One");
    for (let n = 1; n <= 20; n += 1) {
      clock.now = n * 100;
      last()[0].say("x ");
    }
    const [one, other] = comparison.runs[0]?.sides ?? [];
    expect(one).toMatchObject({ ttftMs: 120, tokens: 20, estimated: true, perSecond: 10, totalMs: 2_000 });
    expect(other).toMatchObject({ ttftMs: null, tokens: null, perSecond: null, outcome: "running" });
    last()[0].end();
    expect(comparison.runs[0]?.sides[0]).toEqual({
      model: "m/one",
      ttftMs: 110,
      tokens: 42,
      estimated: false,
      perSecond: 46.7,
      cost: { total: 0.1, currency: "USD" },
      totalMs: 1_010,
      outcome: "complete",
    });
  });

  test("says what was refused, with the side still usable", async () => {
    const { comparison, last } = comparing();
    comparison.ask("One");
    const [one, other] = last();
    one.id = null;
    one.refuse(new Error("no such model"));
    other.end();
    await one.result.catch(() => {});
    await Promise.resolve();
    expect(comparison.sides[0].last?.failure).toBe("no such model");
    expect(comparison.runs[0]?.sides.map(({ outcome }) => outcome)).toEqual(["refused", "complete"]);
    expect(comparison.ask("Two")).toBe(true);
    expect(said(last()[0])).toEqual(["user: Two"]);
  });

  test("runs the last prompt again in place of its answers, as a run of its own", () => {
    const { comparison, last } = comparing();
    comparison.ask("One");
    for (const answer of last()) {
      answer.say("first");
      answer.end();
    }
    expect(comparison.again()).toBe(true);
    expect(last().map(said)).toEqual([["user: One"], ["user: One"]]);
    expect(comparison.sides.map(({ exchanges }) => exchanges.length)).toEqual([1, 1]);
    expect(comparison.runs.map(({ n, sides }) => [n, sides[0].outcome])).toEqual([[1, "complete"], [2, "running"]]);
  });

  test("stops what still runs, once", () => {
    const { comparison, last } = comparing();
    comparison.ask("One");
    last()[0].end();
    comparison.stop();
    comparison.stop();
    expect(last().map(({ cancels }) => cancels)).toEqual([0, 1]);
    expect(comparison.sides[1].last?.stopping).toBe(true);
  });

  test("can stop again what could not be stopped", async () => {
    const { comparison, last } = comparing();
    comparison.ask("One");
    last()[0].stops = false;
    comparison.stop();
    await Promise.resolve();
    await Promise.resolve();
    expect(comparison.sides.map(({ last: exchange }) => [exchange?.stopping, exchange?.failure])).toEqual([
      [false, null],
      [true, null],
    ]);
    comparison.stop();
    expect(last().map(({ cancels }) => cancels)).toEqual([2, 1]);
  });

  test("swaps the sides with all that was said there", () => {
    const { comparison, last } = comparing();
    comparison.ask("One");
    last()[0].say("first");
    for (const answer of last()) answer.end();
    comparison.swap();
    expect(comparison.sides.map(({ model }) => model)).toEqual(["m/other", "m/one"]);
    expect(comparison.runs[0]?.sides.map(({ model }) => model)).toEqual(["m/other", "m/one"]);
    comparison.ask("Two");
    expect(said(last()[1])).toEqual(["user: One", "assistant: first", "user: Two"]);
  });

  test("begins anew and keeps the figures, the last twenty of them", () => {
    const { comparison, last } = comparing();
    for (let n = 1; n <= 25; n += 1) {
      comparison.ask(`${n}`);
      for (const answer of last()) answer.end();
    }
    comparison.beginAnew();
    expect(comparison.sides.map(({ exchanges }) => exchanges.length)).toEqual([0, 0]);
    expect([comparison.runs.length, comparison.runs[0]?.n, comparison.runs.at(-1)?.n]).toEqual([20, 6, 25]);
    expect(comparison.again()).toBe(false);
    comparison.forgetRuns();
    expect(comparison.runs).toEqual([]);
  });

  test("tells who draws of every change, until he has seen enough", () => {
    const { comparison, last } = comparing();
    let changes = 0;
    const stop = comparison.on(() => (changes += 1));
    comparison.ask("One");
    const before = changes;
    last()[0].say("x");
    expect(changes).toBe(before + 1);
    stop();
    last()[0].say("x");
    expect(changes).toBe(before + 1);
  });
});
