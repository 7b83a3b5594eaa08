// What outlives the page, in whatever storage it is given.  Never throws: who may store nothing only loses this.

import type { KeyValues } from "./options.ts";

/** Keep `value`; null keeps nothing. */
export function stored(storage: KeyValues | null, key: string, value: unknown): void {
  try {
    if (value === null) storage?.removeItem(key);
    else storage?.setItem(key, JSON.stringify(value));
  } catch {
    // full, or forbidden
  }
}

export function loaded(storage: KeyValues | null, key: string): unknown {
  try {
    return JSON.parse(storage?.getItem(key) ?? "null") as unknown;
  } catch {
    return null;
  }
}
