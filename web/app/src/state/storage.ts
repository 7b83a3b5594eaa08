// What the browser keeps.  It may be full, or forbidden: then what was to be kept lasts as long as the page, and
// nothing else happens.

/** The part of `Storage` that is used here. */
export type Store = Pick<Storage, "getItem" | "setItem" | "removeItem">;

/** The store that `open` gives; where the browser forbids even to ask for it, one that lasts as long as the page. */
export function storeOf(open: () => Store): Store {
  try {
    return open();
  } catch {
    const held = new Map<string, string>();
    return {
      getItem: (key) => held.get(key) ?? null,
      setItem: (key, value) => void held.set(key, value),
      removeItem: (key) => void held.delete(key),
    };
  }
}

/** False where it could not be kept. */
export function keep(store: Store, key: string, value: string): boolean {
  try {
    if (value === "") store.removeItem(key);
    else store.setItem(key, value);
    return true;
  } catch {
    return false;
  }
}

/** What was kept, or "". */
export function kept(store: Store, key: string): string {
  try {
    return store.getItem(key) ?? "";
  } catch {
    return "";
  }
}

/** What was kept as JSON, where it is an object; else an empty one. */
export function keptObject(store: Store, key: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(kept(store, key) || "{}");
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}
