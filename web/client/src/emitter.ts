// Who wants to hear of what.

/** Calls listeners in their order.  What one throws is reported as an uncaught error, and the rest are called. */
export class Emitter<Events> {
  #listeners: { [K in keyof Events]?: Set<(value: Events[K]) => void> } = {};

  /** Listen; call what is returned to stop. */
  on<K extends keyof Events>(event: K, listener: (value: Events[K]) => void): () => void {
    const listeners = (this.#listeners[event] ??= new Set());
    const own = (value: Events[K]) => listener(value); // the same function may listen twice
    listeners.add(own);
    return () => void listeners.delete(own);
  }

  /** Whether anybody listens: what costs something to tell need not be found out for nobody. */
  has(event: keyof Events): boolean {
    return (this.#listeners[event]?.size ?? 0) > 0;
  }

  emit<K extends keyof Events>(event: K, value: Events[K]): void {
    for (const listener of [...(this.#listeners[event] ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
