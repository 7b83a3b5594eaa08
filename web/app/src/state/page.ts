// The page as it is, without a look: the connection, the session that the address names, what the reader has chosen.
//
//   Client --events--> Session --change, grown--> Page --changes--> views (once a frame)
//   views --acts--> Page --> Session, Client
//
// Views listen to `on` for everything but the text of answers, which grows too often for the whole page: the log
// listens to the session itself.  Nothing is shown as done before the server says so.

import { type Chosen, type Client, CommandError, type Model, type Session, type StateChange } from "@everstream/client";

import { Access, CLOSE_UNAUTHORIZED } from "./access.ts";
import type { Acts } from "./acts.ts";
import { hashOf, sessionIn } from "./address.ts";
import { Attachments } from "./attachments.ts";
import { Changes, drawMarked } from "./changes.ts";
import { contentOf, withText } from "./content.ts";
import { forgetTab, loadDraft, loadModel, saveDraft, saveModel } from "./kept.ts";
import { Listing } from "./listing.ts";
import { NOTHING, type Offer, chosenModel, offerOf } from "./models.ts";
import { Notices } from "./notices.ts";
import { Reading } from "./reading.ts";
import type { Settings } from "./settings.ts";
import type { Store } from "./storage.ts";
import type { Token } from "./token.ts";

const TYPING_EVERY_MS = 3_000;
const FRAME_BYTES = 1_048_576; // until a welcome says otherwise
const GONE: Record<string, string> = {
  unknown: "This chat does not exist, or you are not in it (any more).",
  deleted: "This chat was deleted.",
};

export type OnBusy = "queue" | "interrupt" | "parallel";
export type DialogName = "about" | "settings" | "help";

/** What is shown besides the conversation. */
type Shown = "dialog" | "comparing" | "developing" | "drawer" | "onBusy" | "aboutFailure";

/** A question before something that cannot be undone. */
export interface Question {
  text: string;
  action: string;
  answer: (yes: boolean) => void;
}

export interface PageParts {
  client: Client;
  token: Token;
  settings: Settings;
  /** The tab's own store. */
  tab: Store;
}

export class Page {
  readonly #changes = new Changes();
  readonly #toEnd = new Changes();
  readonly on = this.#changes.on;
  /** The reader wants to see the end, wherever he was. */
  readonly onToEnd = this.#toEnd.on;
  readonly client: Client;
  readonly settings: Settings;
  readonly notices = new Notices();
  readonly access: Access;
  readonly list: Listing;
  readonly attachments: Attachments;
  readonly acts: Acts;
  readonly #token: Token;
  readonly #tab: Store;
  readonly #reading: Reading;
  #typedAt = 0;
  #modelHere = ""; // chosen for the open session
  #deleting: string | null = null;
  models: readonly Model[] = [];
  offer: Offer = NOTHING;
  /** What to do with a message that is sent while an answer runs. */
  onBusy: OnBusy = "queue";
  dialog: DialogName | null = null;
  question: Question | null = null;
  /** What went wrong while the dialog about the session was open: it covers everything else. */
  aboutFailure = "";
  comparing = false;
  developing = false;
  drawer = false;
  /** What stands in the prompt.  No view is drawn from it but the first. */
  draft: string;
  /** Said to a screen reader. */
  spoken = "";

  constructor({ client, token, settings, tab }: PageParts) {
    this.client = client;
    this.#token = token;
    this.settings = settings;
    this.#tab = tab;
    this.access = new Access({ client, token, notices: this.notices });
    this.list = new Listing(client);
    this.attachments = new Attachments(() => client.welcome?.limits.frame_bytes ?? FRAME_BYTES);
    this.acts = this.#makeActs();
    this.draft = loadDraft(tab);
    for (const part of [this.settings, this.notices, this.access, this.list, this.attachments]) {
      part.on(() => this.#changes.tell());
    }
    this.#reading = this.#makeReading();
    this.#modelHere = loadModel(tab, this.session.id);
  }

  /** Begin: connect, and follow the address and what the browser tells. */
  start(): void {
    const { client } = this;
    client.on("state", (change) => this.#onState(change));
    client.on("error", (error) => {
      if (!error.code.startsWith("auth.")) this.notices.say(`${error.code}: ${error.message}`);
    });
    window.addEventListener("hashchange", () => this.#moved());
    window.addEventListener("pagehide", () => this.save());
    window.addEventListener("storage", () => this.settings.readAgain());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState !== "visible") this.save();
      else void this.list.load(); // others may have let us in meanwhile
    });
    this.#reading.changed();
    client.open();
  }

  // ------------------------------------------------------------------ what is so

  get session(): Session {
    return this.#reading.session;
  }

  get busy(): boolean {
    return this.#reading.busy;
  }

  get maySend(): boolean {
    return this.session.id === null || this.session.may("send");
  }

  /** Nothing was said yet, and no chat is open. */
  get isNew(): boolean {
    return this.session.id === null && this.session.requests.length === 0;
  }

  /** The model that the next message goes to, or "". */
  get model(): string {
    return chosenModel(this.offer, this.#modelHere, this.session.state.model, this.settings.chosen.model);
  }

  get modelInfo(): Model | null {
    return this.models.find(({ id }) => id === this.model) ?? null;
  }

  get takesImages(): boolean {
    return this.modelInfo?.images === true;
  }

  rateOf(stream: { id: string; pieces: number }): number | null {
    return this.#reading.rateOf(stream);
  }

  // ------------------------------------------------------------------ what the reader does

  chooseModel(id: string): void {
    this.#modelHere = id;
    if (this.session.id !== null) saveModel(this.#tab, this.session.id, id);
    this.settings.set("model", id);
    this.#changes.tell();
  }

  /** Change what is shown besides the conversation. */
  show(fields: Partial<Pick<Page, Shown>>): void {
    Object.assign(this, fields);
    this.#changes.tell();
    drawMarked();
  }

  /** Send what was written, and the images beside it.  False where it cannot be sent now. */
  say(text: string): boolean {
    const { session } = this;
    const images = this.attachments.parts;
    const unmade = session.id === null && session.requests.some(({ error }) => error === null);
    if ((text === "" && images.length === 0) || this.model === "" || !this.maySend || unmade) return false;
    if (images.length > 0 && !this.takesImages) {
      this.notices.say(`${this.model} takes no images: remove them, or choose another model.`);
      return false;
    }
    this.notices.dismiss();
    this.typed(false);
    session.send(contentOf(text, images), this.#chosen());
    this.attachments.clear();
    this.#toEnd.tell();
    return true;
  }

  stop(): void {
    if (this.busy && this.maySend) this.session.stop();
  }

  /** Tell the others that somebody types: not at every key. */
  typed(typing: boolean): void {
    if (this.session.id === null || this.session.state.members.length < 2) return;
    const now = performance.now();
    if (typing ? this.#typedAt !== 0 && now - this.#typedAt < TYPING_EVERY_MS : this.#typedAt === 0) return;
    this.#typedAt = typing ? now : 0;
    this.session.type(typing);
  }

  newChat(): void {
    this.show({ drawer: false, comparing: false });
    if (sessionIn(location.hash) === null) this.#moved();
    else location.hash = "";
  }

  toEnd(): void {
    this.#toEnd.tell();
  }

  /** Ask whether something is really to be done. */
  confirm(text: string, action: string): Promise<boolean> {
    this.question?.answer(false);
    return new Promise((resolve) => {
      const answer = (yes: boolean): void => {
        this.question = null;
        this.#changes.tell();
        resolve(yes);
      };
      this.question = { text, action, answer };
      this.#changes.tell();
    });
  }

  async delete(id: string, title: string): Promise<void> {
    if (!(await this.confirm(`Delete “${title || "Untitled"}” for everybody in it?`, "Delete"))) return;
    this.#deleting = id;
    try {
      await this.client.deleteSession(id);
      if (id === this.session.id) this.newChat();
      void this.list.load();
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      this.notices.say(`It could not be deleted. ${error.code}: ${error.message}`);
    } finally {
      this.#deleting = null;
    }
  }

  /** The conversation as a text, or null where it failed, which is said.  Markdown is of the path that is looked at. */
  exported(format: "json" | "markdown"): Promise<string | null> {
    const shown = this.session.path.findLast(({ node }) => node.message !== null);
    return this.session.exported(format, format === "markdown" ? shown?.node.message?.id : undefined);
  }

  /** Nothing of the token, and of what was seen with it, stays in the tab. */
  forgetToken(): void {
    this.client.close();
    this.#token.forget();
    this.list.clear();
    this.attachments.clear();
    this.draft = "";
    this.#reading.forget();
    forgetTab(this.#tab);
    this.notices.say("The token is forgotten.", "Connect again", () => this.access.connect());
  }

  save(): void {
    this.#reading.save();
    saveDraft(this.#tab, this.draft);
  }

  #chosen(): Chosen {
    const { model, session, settings } = this;
    const params = settings.params(model, this.modelInfo?.thinking !== false);
    const system = session.id === null ? settings.chosen.system.trim() : "";
    return { model, params, on_busy: this.busy ? this.onBusy : "queue", system };
  }

  #makeActs(): Acts {
    return {
      choose: (above, key) => this.session.choose(above, key),
      edit: (node, text) => this.session.edit(node, withText(node.message?.content ?? "", text), this.#chosen()),
      regenerate: (node) => this.session.regenerate(node, this.#chosen()),
      removeQueued: (turn) => this.session.removeQueued(turn),
      drop: (request) => this.session.drop(request),
      postAgain: (request) => this.session.postAgain(request, this.#chosen()),
      approve: (stream, callId, approved, reason) => this.session.approve(stream, callId, approved, reason),
      giveResult: (stream, callId, content, isError) => this.session.giveResult(stream, callId, content, isError),
      notice: (text, action, act) => this.notices.say(text, action, act),
    };
  }

  // ------------------------------------------------------------------ which session

  /** The address names another session, or none. */
  #moved(): void {
    const id = sessionIn(location.hash);
    if (id !== null && id === this.session.id) return;
    this.notices.dismiss();
    this.#open(id);
  }

  #open(id: string | null): void {
    if (this.dialog === "about") this.dialog = null;
    this.#typedAt = 0;
    this.#modelHere = loadModel(this.#tab, id);
    this.#reading.open(id);
    this.#toEnd.tell();
  }

  #makeReading(): Reading {
    return new Reading(this.client, this.#tab, sessionIn(location.hash), {
      changed: () => this.#changed(),
      made: (id) => {
        history.replaceState(null, "", hashOf(id));
        void this.list.load();
      },
      ended: ({ by, message }) => {
        if (!message && by && by !== this.session.state.me) this.notices.say(`${by} has removed a queued message.`);
        void this.list.load();
      },
      gone: (session, why) => this.#gone(session, why),
      failed: (text) => {
        if (this.dialog === "about") this.show({ aboutFailure: text });
        else this.notices.say(text);
      },
      spoken: (text) => {
        this.spoken = text;
        this.#changes.tell();
      },
    });
  }

  #gone(session: Session, why: string): void {
    history.replaceState(null, "", location.pathname + location.search);
    this.#open(null);
    if (session.id === null || session.id !== this.#deleting) this.notices.say(GONE[why] ?? why);
    void this.list.load();
  }

  /** Something but the text of an answer has changed. */
  #changed(): void {
    this.list.name(this.session.state);
    if (!this.busy) this.onBusy = "queue";
    this.#changes.tell();
  }

  // ------------------------------------------------------------------ the connection

  #onState({ state, code, reason }: StateChange): void {
    if (state === "open") {
      this.notices.clear();
      void this.#loadModels();
      void this.list.load();
    } else if (state === "refused" && code !== CLOSE_UNAUTHORIZED) {
      const why = `The server refused the connection (${code}${reason ? `: ${reason}` : ""}).`;
      this.notices.say(why, "Connect again", () => this.access.connect());
    }
    this.#changed();
  }

  async #loadModels(): Promise<void> {
    try {
      this.models = await this.client.models();
      this.offer = offerOf(this.models);
      this.#changes.tell();
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      if (error.code !== "connection.lost" && error.code !== "connection.closed") {
        this.notices.say(`${error.code}: ${error.message}`);
      }
    }
  }
}
