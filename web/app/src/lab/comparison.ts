// Two conversations that are asked the same things.
//
// A run is one prompt to both.  Its figures are taken from the two answers while they come, and stand still once both
// have ended; they stay in the table when the conversation goes on, is swapped or begins anew.  All of it lives as long
// as the page: `comparisonOf(client)` gives the same one however often the instrument is closed and opened.

import type { Client } from "@everstream/client";

import { figuresOf, Side } from "./side.ts";
import type { Asks, Exchange } from "./side.ts";
import type { Run, SideFigures } from "./runs.ts";

const RUNS_MOST = 20;

interface Running {
  readonly n: number;
  readonly prompt: string;
  readonly exchanges: readonly [Exchange, Exchange];
}

export class Comparison {
  sides: readonly [Side, Side];
  #finished: Run[] = [];
  #running: Running | null = null;
  #count = 0;
  readonly #now: () => number;
  readonly #listeners = new Set<() => void>();

  constructor(asks: Asks, models: readonly [string, string], now: () => number = () => performance.now()) {
    this.#now = now;
    const changed = (): void => this.#changed();
    const side = (id: "one" | "other", model: string): Side => new Side(id, { asks, model, now, changed });
    this.sides = [side("one", models[0]), side("other", models[1])];
  }

  get live(): boolean {
    return this.sides.some((side) => side.live);
  }

  /** Oldest first; the last one may be under way. */
  get runs(): readonly Run[] {
    if (this.#running === null) return this.#finished;
    return [...this.#finished, runOf(this.#running, this.#now())].slice(-RUNS_MOST);
  }

  /** The answers of the last run, as its plot wants them. */
  get exchanges(): readonly [Exchange, Exchange] | null {
    return this.#running?.exchanges ?? null;
  }

  on(changed: () => void): () => void {
    this.#listeners.add(changed);
    return () => this.#listeners.delete(changed);
  }

  /** Ask both.  False while one of them still answers. */
  ask(prompt: string): boolean {
    if (this.live || prompt.trim() === "") return false;
    this.#keep();
    const [one, other] = this.sides;
    one.ask(prompt);
    other.ask(prompt);
    const exchanges = [one.last as Exchange, other.last as Exchange] as const;
    this.#running = { n: ++this.#count, prompt, exchanges };
    this.#changed();
    return true;
  }

  /** Ask the last prompt once more, in place of its answers: another run. */
  again(): boolean {
    const prompt = this.#running?.prompt;
    if (prompt === undefined || this.live) return false;
    for (const side of this.sides) side.takeBack();
    return this.ask(prompt);
  }

  stop(): void {
    for (const side of this.sides) side.stop();
  }

  /** Left becomes right, with all that was said there, and in the last run's figures too. */
  swap(): void {
    this.sides = [this.sides[1], this.sides[0]];
    if (this.#running !== null) {
      const [one, other] = this.#running.exchanges;
      this.#running = { ...this.#running, exchanges: [other, one] };
    }
    this.#changed();
  }

  /** Forget what was said, and keep the figures. */
  beginAnew(): void {
    this.#keep();
    for (const side of this.sides) side.clear();
    this.#changed();
  }

  forgetRuns(): void {
    if (this.live) return;
    this.#finished = [];
    this.#running = null;
    this.#changed();
  }

  /** The last run becomes one of those before it. */
  #keep(): void {
    if (this.#running === null) return;
    this.#finished = [...this.#finished, runOf(this.#running, this.#now())].slice(-RUNS_MOST);
    this.#running = null;
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }
}

function runOf({ n, prompt, exchanges }: Running, now: number): Run {
  const figures = (exchange: Exchange): SideFigures => figuresOf(exchange, now);
  return { n, prompt, sides: [figures(exchanges[0]), figures(exchanges[1])] };
}

const comparisons = new WeakMap<Client, Comparison>();

/** The page's comparison; `models` are what a new one begins with. */
export function comparisonOf(client: Client, models: readonly [string, string]): Comparison {
  const known = comparisons.get(client);
  if (known !== undefined) return known;
  const comparison = new Comparison(client, models);
  comparisons.set(client, comparison);
  // Nothing of it outlives the page, so nobody would read what is still being answered, and paid for.  Whether the word
  // gets out of a page that goes is up to the browser: mostly it does.
  addEventListener("pagehide", ({ persisted }) => {
    if (!persisted) comparison.stop();
  });
  return comparison;
}

