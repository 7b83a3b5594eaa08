// What somebody said: its text as it was written, its pictures, and, where it is one's own, a way to say it better.

import type { Content, ImagePart, PathItem } from "@everstream/client";
import type { JSX } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

import type { LogContext } from "../state/acts.ts";
import { linkAddress, pictureAddress } from "./address.ts";
import { Branches } from "./branches.tsx";
import { CopyButton } from "./copy.tsx";

interface Props {
  item: PathItem;
  context: LogContext;
}

export function SaidMessage({ item, context }: Props): JSX.Element | null {
  const { session, acts, several, maySend } = context;
  const { node } = item;
  const [editing, setEditing] = useState(false);
  const edit = useRef<HTMLButtonElement>(null);
  const wasEditing = useRef(false);
  useLayoutEffect(() => {
    if (wasEditing.current && !editing) edit.current?.focus();
    wasEditing.current = editing;
  }, [editing]);
  const { message } = node;
  if (message === null) return null;
  const mine = message.author === session.state.me;
  const named = several || !mine;
  const text = textIn(message.content);
  return (
    <article class={mine ? "said mine" : "said"}>
      <h3 class={named ? "author" : "author unseen"}>{named ? message.author : "You"}</h3>
      <Pictures content={message.content} />
      <div class="text" hidden={editing || text === ""}>
        {text}
      </div>
      {editing && (
        <Editing
          text={text}
          onCancel={() => setEditing(false)}
          onSave={(better) => {
            setEditing(false);
            acts.edit(node, better);
          }}
        />
      )}
      <div class="foot" hidden={editing}>
        <Branches item={item} choose={acts.choose} />
        <CopyButton text={() => text} what="Copy this message" />
        <button
          type="button"
          class="quiet edit"
          ref={edit}
          hidden={!(mine && maySend)}
          onClick={() => setEditing(true)}
        >
          Edit
        </button>
      </div>
    </article>
  );
}

interface EditingProps {
  text: string;
  onCancel: () => void;
  onSave: (text: string) => void;
}

function Editing({ text, onCancel, onSave }: EditingProps): JSX.Element {
  const field = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    const { current } = field;
    current?.focus();
    current?.setSelectionRange(current.value.length, current.value.length);
  }, []);
  const save = (): void => {
    const better = field.current?.value.trim() ?? "";
    if (better !== "") onSave(better);
  };
  return (
    <form
      class="editing"
      onSubmit={(event) => {
        event.preventDefault();
        save();
      }}
      onKeyDown={(event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) {
          event.preventDefault();
          save();
        } else if (event.key === "Escape") {
          event.stopPropagation(); // it stops no answer
          onCancel();
        }
      }}
    >
      <textarea ref={field} aria-label="Edit your message" defaultValue={text} />
      <div class="buttons">
        <button type="button" class="plain" onClick={onCancel}>
          Cancel
        </button>
        <button type="submit">Send as a new version</button>
      </div>
    </form>
  );
}

/** The text of a content, without its pictures. */
export function textIn(content: Content | null | undefined): string {
  if (typeof content === "string") return content;
  return (content ?? []).map((part) => (part.type === "text" ? part.text : "")).filter(Boolean).join("\n");
}

/** Pictures that lie in the message are shown; of those that lie elsewhere there is the address. */
export function Pictures({ content }: { content: Content | null | undefined }): JSX.Element | null {
  const pictures = typeof content === "string" ? [] : (content ?? []).filter((part) => part.type === "image");
  if (pictures.length === 0) return null;
  return (
    <div class="pictures">
      {pictures.map((picture, place) => (
        <Picture key={place} picture={picture} name={`Picture ${place + 1}`} />
      ))}
    </div>
  );
}

function Picture({ picture, name }: { picture: ImagePart; name: string }): JSX.Element {
  const { url, data, media_type } = picture;
  const inline = pictureAddress(data ? `data:${media_type ?? ""};base64,${data}` : (url ?? ""));
  if (inline !== null) return <img class="picture" src={inline} alt={name} />;
  const address = linkAddress(url ?? "");
  if (address === null) return <span class="picture-name">{name}</span>;
  return (
    <a href={address} title={address} target="_blank" rel="noopener noreferrer nofollow">
      {name}
    </a>
  );
}
