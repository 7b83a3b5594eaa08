// A button that copies a text, and says so to whoever cannot see it.

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";

const SAID_MS = 2_000;

/** Put `text` on the clipboard; whether it is there now. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copySelected(text); // a page served over plain HTTP has no clipboard
  }
}

function copySelected(text: string): boolean {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "unseen";
  document.body.append(field);
  field.select();
  try {
    return document.execCommand("copy");
  } catch {
    return false;
  } finally {
    field.remove();
  }
}

const LABELS = { no: "Copy", yes: "Copied", failed: "Not copied" } as const;

/** `text` is asked for when it is copied; `what` is the button's name. */
export function CopyButton({ text, what }: { text: () => string; what: string }): JSX.Element {
  const [copied, setCopied] = useState<keyof typeof LABELS>("no");
  useEffect(() => {
    if (copied === "no") return;
    const timer = setTimeout(() => setCopied("no"), SAID_MS);
    return () => clearTimeout(timer);
  }, [copied]);
  const copy = async (): Promise<void> => setCopied((await copyText(text())) ? "yes" : "failed");
  return (
    <button type="button" class="quiet copy" title={what} onClick={() => void copy()}>
      <span aria-live="polite">{LABELS[copied]}</span>
    </button>
  );
}
