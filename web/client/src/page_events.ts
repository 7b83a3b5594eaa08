// When to look at the connection at once.  Outside of a browser nobody says so.

/** Call `back` when the network or the page is back, `gone` when the network is gone.  What is returned stops that. */
export function onPageEvents(back: () => void, gone: () => void): () => void {
  if (typeof window === "undefined" || typeof document === "undefined") return () => {};
  const seen = () => document.visibilityState === "visible" && back();
  window.addEventListener("online", back);
  window.addEventListener("pageshow", back);
  window.addEventListener("offline", gone);
  document.addEventListener("visibilitychange", seen);
  return () => {
    window.removeEventListener("online", back);
    window.removeEventListener("pageshow", back);
    window.removeEventListener("offline", gone);
    document.removeEventListener("visibilitychange", seen);
  };
}
