// What a message says: text, or a list of parts.

import type { Content, ContentPart } from "@everstream/client";

/** `text` in place of what `content` says; its images stay. */
export function withText(content: Content, text: string): Content {
  if (typeof content === "string") return text;
  const images = content.filter((part) => part.type !== "text");
  return contentOf(text, images);
}

/** Text alone where there are no images. */
export function contentOf(text: string, images: readonly ContentPart[]): Content {
  if (images.length === 0) return text;
  return [...(text === "" ? [] : [{ type: "text", text } as const]), ...images];
}
