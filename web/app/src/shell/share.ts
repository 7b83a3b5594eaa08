// Taking a conversation along: into the clipboard, or as a file.

import { fileName } from "../state/address.ts";
import type { Page } from "../state/page.ts";

const TYPES = { json: "application/json", markdown: "text/markdown" };
const ENDINGS = { json: "json", markdown: "md" };

export async function download(page: Page, format: "json" | "markdown"): Promise<void> {
  const { title } = page.session.state;
  const content = await page.exported(format);
  if (content === null) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: TYPES[format] }));
  link.download = fileName(title, ENDINGS[format]);
  link.click();
  URL.revokeObjectURL(link.href);
}

export async function copyConversation(page: Page): Promise<void> {
  const content = await page.exported("markdown");
  if (content === null) return;
  if (await copied(content)) page.notices.mention("Copied as Markdown.");
  else page.notices.say("This browser let nothing be copied.");
}

export async function copyLink(page: Page): Promise<void> {
  const done = await copied(location.href);
  page.notices.mention(done ? "The link is copied. Whoever is in this chat can open it." : location.href);
}

/** The clipboard's own interface exists on secure origins only; a page in a local network has the older way. */
async function copied(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copiedByCommand(text);
  }
}

function copiedByCommand(text: string): boolean {
  const field = document.createElement("textarea");
  field.className = "unseen";
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}
