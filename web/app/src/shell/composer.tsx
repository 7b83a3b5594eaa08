// Where a message is written: the prompt, the model it goes to, and what else is sent with it.

import type { FormHTMLAttributes, JSX } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";

import { ACCEPTED } from "../state/attachments.ts";
import type { OnBusy, Page } from "../state/page.ts";
import { Icon } from "./icons.tsx";
import { Options } from "./options.tsx";
import { focusOn } from "./shortcuts.ts";

const GROWS = typeof CSS !== "undefined" && CSS.supports("field-sizing", "content");

export function Composer({ page }: { page: Page }): JSX.Element {
  const prompt = useRef<HTMLTextAreaElement>(null);
  const closed = !page.maySend && page.session.state.opened;
  const say = (): void => {
    const field = prompt.current;
    if (field === null || !page.say(field.value.trim())) return;
    field.value = "";
    page.draft = "";
    fit(field);
    field.focus();
  };
  return (
    <>
      <p id="reads-only" class="hint" hidden={!closed}>
        You may read this chat, and not write in it.
      </p>
      <form
        id="composer"
        class="composer"
        hidden={closed}
        onSubmit={(event) => {
          event.preventDefault();
          say();
        }}
        {...dropping(page)}
      >
        <Previews page={page} />
        <Prompt page={page} field={prompt} onSend={say} />
        <Row page={page} />
        <Options page={page} />
      </form>
    </>
  );
}

interface PromptProps {
  page: Page;
  field: { current: HTMLTextAreaElement | null };
  onSend: () => void;
}

function Prompt({ page, field, onSend }: PromptProps): JSX.Element {
  useLayoutEffect(() => {
    const shown = field.current;
    if (shown === null) return;
    shown.value = page.draft;
    fit(shown);
    // A touch screen would bring up its keyboard.
    if (!matchMedia("(pointer: coarse)").matches && !document.querySelector("dialog[open]")) shown.focus();
  }, []);
  return (
    <>
      <label for="prompt" class="unseen">
        Prompt
      </label>
      <textarea
        id="prompt"
        ref={field}
        rows={1}
        placeholder="Ask anything"
        autocomplete="off"
        aria-describedby="prompt-keys"
        enterkeyhint={page.settings.chosen["send-key"] === "enter" ? "send" : "enter"}
        onInput={(event) => {
          const { value } = event.currentTarget;
          page.draft = value;
          page.typed(value !== "");
          fit(event.currentTarget);
        }}
        onKeyDown={(event) => {
          if (!sends(event, page.settings.chosen["send-key"])) return;
          event.preventDefault();
          onSend();
        }}
        onPaste={(event) => {
          const files = [...(event.clipboardData?.files ?? [])];
          if (attach(page, files)) event.preventDefault();
        }}
      />
    </>
  );
}

/** Whether a key sends.  Enter that ends the input of a Japanese or Chinese word is no Enter. */
function sends(event: KeyboardEvent, sendKey: "enter" | "mod-enter"): boolean {
  if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return false;
  return event.ctrlKey || event.metaKey || (sendKey === "enter" && !event.shiftKey);
}

/** As high as what is in it, where the style sheet cannot see to that. */
function fit(field: HTMLTextAreaElement): void {
  if (GROWS) return;
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

/** Take images, where there are any; false: there were none. */
function attach(page: Page, files: readonly File[]): boolean {
  const images = files.filter(({ type }) => type.startsWith("image/"));
  if (images.length === 0) return false;
  if (page.takesImages) {
    void page.attachments.add(images).then((wrong) => wrong !== "" && page.notices.say(wrong));
  } else {
    page.notices.say(`${page.model || "This model"} takes no images: choose another model first.`);
  }
  return true;
}

type Dropping = Pick<FormHTMLAttributes<HTMLFormElement>, "onDragOver" | "onDragLeave" | "onDrop">;

function dropping(page: Page): Dropping {
  return {
    onDragOver: (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      event.currentTarget.classList.add("dropping");
    },
    onDragLeave: (event) => event.currentTarget.classList.remove("dropping"),
    onDrop: (event) => {
      event.currentTarget.classList.remove("dropping");
      const files = [...(event.dataTransfer?.files ?? [])];
      if (files.length === 0) return;
      event.preventDefault();
      if (!attach(page, files)) page.notices.say("Only images go with a message.");
    },
  };
}

function Previews({ page }: { page: Page }): JSX.Element {
  const { attachments } = page;
  return (
    <ul id="attachments" class="attachments" aria-label="Images to send" hidden={attachments.list.length === 0}>
      {attachments.list.map(({ key, name, media_type, data }) => (
        <li key={key}>
          <img src={`data:${media_type};base64,${data}`} alt={name} />
          <button type="button" class="plain" aria-label={`Remove ${name}`} onClick={() => attachments.remove(key)}>
            <Icon name="close" />
          </button>
        </li>
      ))}
    </ul>
  );
}

function Row({ page }: { page: Page }): JSX.Element {
  const { busy, session, settings } = page;
  const byEnter = settings.chosen["send-key"] === "enter";
  return (
    <div class="row">
      <Attach page={page} />
      <ModelPicker page={page} />
      <span id="prompt-keys" class="keys">
        {byEnter ? <kbd>Enter</kbd> : <kbd>Ctrl+Enter</kbd>} sends,{" "}
        {byEnter ? <kbd>Shift+Enter</kbd> : <kbd>Enter</kbd>} new line
      </span>
      <button
        id="stop"
        type="button"
        class="stop"
        hidden={!busy}
        disabled={session.stopping}
        aria-keyshortcuts="Escape"
        title="Stop (Escape)"
        onClick={(event) => {
          page.stop();
          if (event.detail === 0) focusOn("prompt"); // by a key: the button goes, and must not take the focus along
        }}
      >
        Stop
      </button>
      <label for="on-busy" class="unseen">
        While an answer runs
      </label>
      <select
        id="on-busy"
        hidden={!busy}
        title="While an answer runs"
        value={page.onBusy}
        onChange={(event) => page.show({ onBusy: event.currentTarget.value as OnBusy })}
      >
        <option value="queue">queue</option>
        <option value="interrupt">interrupt</option>
        <option value="parallel">beside it</option>
      </select>
      <button id="send" type="submit" class="send" disabled={page.model === ""}>
        <Icon name="send" />
        Send
      </button>
    </div>
  );
}

function Attach({ page }: { page: Page }): JSX.Element {
  const field = useRef<HTMLInputElement>(null);
  return (
    <>
      <button
        id="attach"
        type="button"
        class="plain bare"
        title="Add images"
        hidden={!page.takesImages}
        onClick={() => field.current?.click()}
      >
        <Icon name="image" />
        <span class="unseen">Add images</span>
      </button>
      <input
        ref={field}
        type="file"
        aria-label="Images to send"
        accept={ACCEPTED}
        multiple
        hidden
        onChange={(event) => {
          attach(page, [...(event.currentTarget.files ?? [])]);
          event.currentTarget.value = "";
        }}
      />
    </>
  );
}

function ModelPicker({ page }: { page: Page }): JSX.Element {
  const { usable } = page.offer;
  const nothing = page.models.length === 0 ? "loading models" : "no model is usable";
  return (
    <>
      <label for="model" class="unseen">
        Model
      </label>
      <select
        id="model"
        disabled={usable.length === 0}
        title={page.model}
        value={page.model}
        onChange={(event) => page.chooseModel(event.currentTarget.value)}
      >
        {usable.length === 0 && <option value="">{nothing}</option>}
        {usable.map(({ id }) => (
          <option key={id} value={id}>
            {id}
          </option>
        ))}
      </select>
    </>
  );
}
