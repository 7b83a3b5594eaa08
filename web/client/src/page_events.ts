// When to look at the connection at once: the network or the page is back, or the network is gone.  Outside of a
// browser nobody says so.

/** Call `wake` at such times.  Call what is returned to stop. */
export function onWaking(wake: () => void): () => void {
  if (typeof window === "undefined" || typeof document === "undefined") return () => {};
  const seen = () => document.visibilityState === "visible" && wake();
  const names = ["online", "offline", "pageshow"] as const;
  for (const name of names) window.addEventListener(name, wake);
  document.addEventListener("visibilitychange", seen);
  return () => {
    for (const name of names) window.removeEventListener(name, wake);
    document.removeEventListener("visibilitychange", seen);
  };
}
