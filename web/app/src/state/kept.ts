// What a tab keeps for its next load, in sessionStorage: it is a tab's own, so two tabs cannot write over each other.
//
// The open session is kept as it stands, with its streams (position and text together, so that they always fit each
// other): a reload goes on from there in one round trip, and shows it while no server can be reached.  When the store
// is full the streams are kept as "from the start", and then nothing: the server has all the rest.  Which branches
// were chosen is kept for every session that was looked at.

import { type SavedSession, type SessionState, newSession, newStream } from "@everstream/client";

import { keep, kept, keptObject, type Store } from "./storage.ts";

const TAB_KEY = "everstream.tab.2";
const CHOICES_KEY = "everstream.choices.1.";
const DRAFT_KEY = "everstream.draft.1";
const MODEL_KEY = "everstream.model.1";

export function saveTab(store: Store, saved: SavedSession): void {
  const id = saved.session?.id;
  if (id && Object.keys(saved.choices).length > 0) keep(store, CHOICES_KEY + id, JSON.stringify(saved.choices));
  if (keep(store, TAB_KEY, JSON.stringify(saved))) return;
  if (!keep(store, TAB_KEY, JSON.stringify(withoutStreams(saved)))) keep(store, TAB_KEY, "");
}

/** What was kept of the session `id`, where the tab had it open; else the branches that were chosen in it. */
export function loadTab(store: Store, id: string): SavedSession {
  const tab = keptObject(store, TAB_KEY) as Partial<SavedSession>;
  if (tab.session?.id === id) {
    return { session: filledUp(tab.session), choices: tab.choices ?? {}, stopping: tab.stopping ?? [] };
  }
  const choices = keptObject(store, CHOICES_KEY + id) as Record<string, string>;
  return { session: null, choices, stopping: [] };
}

export function forgetTab(store: Store): void {
  keep(store, TAB_KEY, "");
  keep(store, DRAFT_KEY, "");
  keep(store, MODEL_KEY, "");
}

/** The model that was chosen in the session `id`, against the session's own. */
export function saveModel(store: Store, id: string, model: string): void {
  keep(store, MODEL_KEY, JSON.stringify({ id, model }));
}

/** "" where none was chosen in the session `id`, or in another one since. */
export function loadModel(store: Store, id: string | null): string {
  const { id: chosenIn, model } = keptObject(store, MODEL_KEY);
  return id !== null && chosenIn === id && typeof model === "string" ? model : "";
}

/** What stands in the prompt, not sent yet. */
export function saveDraft(store: Store, text: string): void {
  keep(store, DRAFT_KEY, text);
}

export function loadDraft(store: Store): string {
  return kept(store, DRAFT_KEY);
}

/** What a page of an older version has kept may lack what this one looks at. */
function filledUp(session: SessionState): SessionState {
  const streams = Object.entries(session.streams ?? {}).map(([id, held]) => [id, { ...newStream(id), ...held }]);
  return { ...newSession(session.id), ...session, streams: Object.fromEntries(streams) };
}

function withoutStreams(saved: SavedSession): SavedSession {
  return { ...saved, session: saved.session && { ...saved.session, streams: {} } };
}
