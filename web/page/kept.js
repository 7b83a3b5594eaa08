// What a tab keeps for its next load, in sessionStorage: it is a tab's own, so two tabs cannot write over each other.
//
// The open session is kept as it stands, with its streams (position and text together, so that they always fit each
// other): a reload goes on from there in one round trip, and shows it while no server can be reached.  When the store is
// full the streams are kept as "from the start", and then nothing but what was sent: the server has all the rest.

import { newStream } from "./stream.js";

const TAB_KEY = "everstream.tab.1";
const CHOICES_KEY = "everstream.choices.1.";

/** Store what the tab holds: {session, outbox, stopping}.  Never throws: who may store nothing only loses this. */
export function saveTab(storage, tab) {
  const { session } = tab;
  const attempts = [
    () => tab,
    () => ({ ...tab, session: session && { ...session, streams: unread(session.streams) } }),
    () => ({ ...tab, session: null }),
  ];
  attempts.some((attempt) => saved(storage, TAB_KEY, attempt()));
}

export function loadTab(storage) {
  const tab = loaded(storage, TAB_KEY);
  return { session: tab.session ?? null, outbox: tab.outbox ?? [], stopping: tab.stopping ?? [] };
}

/** Which branches the viewer has chosen in a session. */
export function saveChoices(storage, session, choices) {
  saved(storage, CHOICES_KEY + session, choices);
}

export function loadChoices(storage, session) {
  return loaded(storage, CHOICES_KEY + session);
}

function unread(streams) {
  const open = Object.values(streams).filter((stream) => stream.end === null);
  return Object.fromEntries(open.map(({ id, epoch }) => [id, newStream(id, epoch)]));
}

function saved(storage, key, value) {
  try {
    storage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false; // full, or forbidden
  }
}

function loaded(storage, key) {
  try {
    const value = JSON.parse(storage.getItem(key) ?? "{}");
    return typeof value === "object" && value !== null ? value : {};
  } catch {
    return {};
  }
}
