// Which addresses of an answer lead anywhere: nobody but the reader's own click may follow them, and none runs
// anything.

import { decoded } from "./entities.ts";
import { unmarked } from "./seams.tsx";

const LINKED = new Set(["http:", "https:", "mailto:"]);
const PICTURE = /^data:image\/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/=\s]*$/i;

/**
 * The address of a link as the browser would read it, in full; null: it leads nowhere.  A relative one does not
 * either: it would lead to this server.  One with a name before its host (`https://bank.example@evil.example`) is
 * made to deceive.
 */
export function linkAddress(href: string): string | null {
  let url: URL;
  try {
    url = new URL(unmarked(decoded(href)));
  } catch {
    return null;
  }
  if (!LINKED.has(url.protocol) || url.username !== "" || url.password !== "") return null;
  return url.href;
}

/** The address of a picture that lies in the answer itself; null: it would have to be loaded, or is none. */
export function pictureAddress(href: string): string | null {
  return PICTURE.test(href) ? href : null;
}
