// One side of a comparison: a model, and the conversation held with it so far.
//
// Nothing of it is kept on the server: each question is a `generate` with the whole history, and the stream it makes
// outlives a lost connection as all streams do.  A question whose answer says nothing (it failed, or was stopped before
// the first word) is no part of the history: no model takes two questions in a row.

import type { Client, Message, Stream } from "@everstream/client";

import { paramsOf } from "./fields.ts";
import type { Filled } from "./fields.ts";
import type { Outcome, SideFigures } from "./runs.ts";
import { Samples } from "./samples.ts";

/** What a side needs of the client. */
export type Asks = Pick<Client, "generate">;

export interface Exchange {
  readonly prompt: string;
  readonly model: string;
  readonly stream: Stream;
  readonly samples: Samples;
  readonly askedAt: number; // ms of the clock
  endedAt: number | null;
  failure: string | null; // it was refused, or cannot be read any more
  stopping: boolean;
}

const EXCHANGES_MOST = 50;

export class Side {
  readonly id: "one" | "other"; // it keeps its name when it changes places
  model: string;
  filled: Filled = {}; // what the next question is asked with
  exchanges: Exchange[] = [];
  readonly #asks: Asks;
  readonly #now: () => number;
  readonly #changed: () => void;

  constructor(
    id: "one" | "other",
    { asks, model, now, changed }: { asks: Asks; model: string; now: () => number; changed: () => void },
  ) {
    this.id = id;
    this.#asks = asks;
    this.model = model;
    this.#now = now;
    this.#changed = changed;
  }

  get last(): Exchange | null {
    return this.exchanges.at(-1) ?? null;
  }

  get live(): boolean {
    return this.last !== null && isLive(this.last);
  }

  ask(prompt: string): void {
    const messages: Message[] = [...this.#history(), { role: "user", content: prompt }];
    const exchange: Exchange = {
      prompt,
      model: this.model,
      stream: this.#asks.generate({ model: this.model, messages, params: paramsOf(this.model, this.filled) }),
      samples: new Samples(),
      askedAt: this.#now(),
      endedAt: null,
      failure: null,
      stopping: false,
    };
    this.exchanges = [...this.exchanges.slice(1 - EXCHANGES_MOST), exchange];
    this.#listen(exchange);
  }

  /** Take the last question back, with what was answered to it. */
  takeBack(): void {
    this.stop();
    this.exchanges = this.exchanges.slice(0, -1);
  }

  stop(): void {
    const exchange = this.last;
    if (exchange === null || !isLive(exchange) || exchange.stopping) return;
    exchange.stopping = true;
    this.#changed();
    // Where it is not stopped it runs on, and can be stopped again.
    exchange.stream.cancel().catch(() => {
      exchange.stopping = false;
      this.#changed();
    });
  }

  clear(): void {
    this.stop();
    this.exchanges = [];
  }

  #history(): Message[] {
    return this.exchanges.flatMap(({ prompt, stream }): Message[] =>
      stream.text.trim() === ""
        ? []
        : [
            { role: "user", content: prompt },
            { role: "assistant", content: stream.text },
          ],
    );
  }

  #listen(exchange: Exchange): void {
    const { stream } = exchange;
    stream.on("change", () => this.#grown(exchange));
    stream.on("end", () => this.#ended(exchange));
    stream.on("error", (error) => this.#fail(exchange, error));
    // Both ways to learn of a failure are listened to: whichever the stream takes, it is shown, and none goes unheard.
    stream.result.then(
      () => this.#ended(exchange),
      (error: unknown) => this.#fail(exchange, error),
    );
    this.#changed();
  }

  #grown(exchange: Exchange): void {
    exchange.samples.note(this.#now() - exchange.askedAt, exchange.stream.state.pieces);
    this.#changed();
  }

  #ended(exchange: Exchange): void {
    if (exchange.endedAt !== null) return;
    exchange.endedAt = this.#now();
    this.#changed();
  }

  #fail(exchange: Exchange, error: unknown): void {
    if (exchange.endedAt !== null) return;
    exchange.failure = error instanceof Error ? error.message : String(error);
    exchange.endedAt = this.#now();
    this.#changed();
  }
}

export function isLive(exchange: Exchange): boolean {
  return exchange.endedAt === null;
}

/** The figures of an answer as they are at `now`: counted here while it comes, the server's once it has ended. */
export function figuresOf(exchange: Exchange, now: number): SideFigures {
  const { state } = exchange.stream;
  const { end } = state;
  const elapsedMs = (exchange.endedAt ?? now) - exchange.askedAt;
  if (end === null) {
    return {
      model: exchange.model,
      ttftMs: state.ttft_ms,
      tokens: state.pieces > 0 ? state.pieces : null,
      estimated: true,
      perSecond: isLive(exchange) ? exchange.samples.rateAt(elapsedMs) : null,
      cost: null,
      totalMs: elapsedMs,
      outcome: outcomeOf(exchange),
    };
  }
  return {
    model: exchange.model,
    ttftMs: end.metrics.ttft_ms ?? state.ttft_ms,
    tokens: end.usage.output_tokens,
    estimated: end.usage.source === "estimated",
    perSecond: end.metrics.tokens_per_s,
    cost: end.cost === null ? null : { total: end.cost.total, currency: end.cost.currency ?? "USD" },
    totalMs: end.metrics.total_ms,
    outcome: end.reason,
  };
}

function outcomeOf(exchange: Exchange): Outcome {
  if (isLive(exchange)) return "running";
  return exchange.stream.id === null ? "refused" : "failed";
}
