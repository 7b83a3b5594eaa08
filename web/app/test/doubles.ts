// What stands in for a browser's parts in tests.

import type { Model, SessionInfo } from "@everstream/client";

import type { Store } from "../src/state/storage.ts";

/** A store in memory, which takes texts of `most` characters at most. */
export class MemoryStore implements Store {
  readonly held = new Map<string, string>();
  readonly #most: number;

  constructor(most = Infinity) {
    this.#most = most;
  }

  getItem(key: string): string | null {
    return this.held.get(key) ?? null;
  }

  setItem(key: string, value: string): void {
    if (value.length > this.#most) throw new DOMException("full", "QuotaExceededError");
    this.held.set(key, value);
  }

  removeItem(key: string): void {
    this.held.delete(key);
  }
}

export function model(id: string, fields: Partial<Model> = {}): Model {
  return { id, usable: true, continuation: null, ...fields };
}

export function listed(session: string, title = ""): SessionInfo {
  return { session, title, model: "", role: "owner", created: 1, updated: 1, members: 1 };
}

/** The promises that are settled already have had their say. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}
