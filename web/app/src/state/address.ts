// Which session is open is the address's matter ("#s_…"): a link, a bookmark, going back, a reload and the list are all
// the same case, a change of the address.

const SESSION = /^s_[0-9a-z]+$/;

/** The session that an address's fragment names, or null. */
export function sessionIn(hash: string): string | null {
  const id = hash.startsWith("#") ? hash.slice(1) : hash;
  return SESSION.test(id) ? id : null;
}

export function hashOf(session: string): string {
  return `#${session}`;
}

/** A file's name for what a chat is called. */
export function fileName(title: string, ending: string): string {
  return `${title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "chat"}.${ending}`;
}
