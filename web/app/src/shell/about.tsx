// The dialog about the open session: its title and system prompt, who is in it, taking it along.
//
// What a viewer's role forbids is not offered.  Fields are filled in when the dialog opens and not while it is open:
// nobody's writing is replaced under his hands; the list of people follows.

import type { SessionState } from "@everstream/client";
import type { JSX } from "preact";
import { useRef } from "preact/hooks";

import type { Page } from "../state/page.ts";
import { Dialog } from "./dialog.tsx";
import { download } from "./share.ts";

const ROLES = ["owner", "editor", "viewer"] as const;
type Role = (typeof ROLES)[number];

export function About({ page }: { page: Page }): JSX.Element {
  const open = page.dialog === "about" && page.session.state.role !== null;
  const close = (): void => page.show({ dialog: null, aboutFailure: "" });
  return (
    <Dialog id="about" open={open} onClose={close} labelledBy="about-heading">
      <h2 id="about-heading">This chat</h2>
      <p id="about-failure" class="failure-line" role="alert">
        {page.aboutFailure}
      </p>
      {open && <Fields page={page} onDone={close} />}
      <h3>People</h3>
      <Members page={page} />
      <h3>Take it along</h3>
      <div class="exports">
        <button id="export-markdown" type="button" class="plain" onClick={() => void download(page, "markdown")}>
          Markdown
        </button>
        <button id="export-json" type="button" class="plain" onClick={() => void download(page, "json")}>
          JSON, with all branches
        </button>
      </div>
      <Leaving page={page} onClose={close} />
    </Dialog>
  );
}

function Fields({ page, onDone }: { page: Page; onDone: () => void }): JSX.Element {
  const title = useRef<HTMLInputElement>(null);
  const system = useRef<HTMLTextAreaElement>(null);
  const model = useRef<HTMLSelectElement>(null);
  const { state } = page.session;
  const filled = useRef({ title: state.title, system: state.system, model: state.model });
  const mayUpdate = page.session.may("update");
  const save = async (): Promise<void> => {
    const wanted = {
      title: title.current?.value.trim() ?? "",
      system: system.current?.value.trim() ?? "",
      model: model.current?.value ?? state.model,
    };
    const fields = {
      ...(wanted.title !== state.title && { title: wanted.title }),
      ...(wanted.system !== state.system && { system: wanted.system }),
      ...(wanted.model !== state.model && { model: wanted.model }),
    };
    if (Object.keys(fields).length === 0 || (await page.session.update(fields))) onDone();
  };
  return (
    <form
      id="about-form"
      onSubmit={(event) => {
        event.preventDefault();
        void save();
      }}
    >
      <label for="about-title-field">Title</label>
      <input
        id="about-title-field"
        ref={title}
        defaultValue={filled.current.title}
        maxLength={200}
        autocomplete="off"
        disabled={!mayUpdate}
      />
      <label for="about-system">System prompt</label>
      <textarea
        id="about-system"
        ref={system}
        defaultValue={filled.current.system}
        rows={3}
        placeholder="How the model should behave"
        disabled={!mayUpdate}
      />
      <ModelField page={page} field={model} current={filled.current.model} />
      <div class="buttons">
        <button id="about-save" type="submit" hidden={!mayUpdate}>
          Save
        </button>
      </div>
    </form>
  );
}

interface ModelFieldProps {
  page: Page;
  field: { current: HTMLSelectElement | null };
  current: string;
}

function ModelField({ page, field, current }: ModelFieldProps): JSX.Element {
  return (
    <>
      <label for="about-model">Model, where nobody chooses another one</label>
      <select id="about-model" ref={field} disabled={!page.session.may("update")}>
        {modelsFor(page, current).map((id) => (
          <option key={id} value={id} selected={id === current}>
            {id || "none"}
          </option>
        ))}
      </select>
    </>
  );
}

/** Those that are usable, and the one that the session has. */
function modelsFor(page: Page, current: string): string[] {
  const usable = page.offer.usable.map(({ id }) => id);
  return usable.includes(current) ? usable : [current, ...usable];
}

function Members({ page }: { page: Page }): JSX.Element {
  const { state } = page.session;
  const mayInvite = page.session.may("members");
  const oneOwner = ownersOf(state) === 1;
  return (
    <>
      <ul id="members" class="members">
        {state.members.map(({ user, role }) => (
          <li key={user} data-user={user}>
            <span class="member">{user === state.me ? `${user} (you)` : user}</span>
            {!mayInvite || (oneOwner && role === "owner") ? (
              <span class="role">{role}</span>
            ) : (
              <ChangingMember page={page} user={user} role={role} />
            )}
          </li>
        ))}
      </ul>
      <Invitation page={page} hidden={!mayInvite} />
    </>
  );
}

function ChangingMember({ page, user, role }: { page: Page; user: string; role: Role }): JSX.Element {
  const change = async (select: HTMLSelectElement): Promise<void> => {
    if (!(await page.session.addMember(user, select.value as Role))) select.value = role;
  };
  return (
    <>
      <RoleSelect label={`Role of ${user}`} value={role} onChange={(select) => void change(select)} />
      <button
        type="button"
        class="plain"
        aria-label={`Remove ${user}`}
        onClick={() => void page.session.removeMember(user)}
      >
        Remove
      </button>
    </>
  );
}

interface RoleSelectProps {
  id?: string;
  label: string;
  value: Role;
  onChange?: (select: HTMLSelectElement) => void;
}

function RoleSelect({ id, label, value, onChange }: RoleSelectProps): JSX.Element {
  return (
    <select {...(id && { id })} aria-label={label} value={value} onChange={(event) => onChange?.(event.currentTarget)}>
      {ROLES.map((role) => (
        <option key={role}>{role}</option>
      ))}
    </select>
  );
}

function Invitation({ page, hidden }: { page: Page; hidden: boolean }): JSX.Element {
  const invite = async (form: HTMLFormElement): Promise<void> => {
    const [who, role] = form.querySelectorAll<HTMLInputElement | HTMLSelectElement>("input, select");
    const user = who?.value.trim() ?? "";
    if (!who || !role || user === "" || !(await page.session.addMember(user, role.value as Role))) return;
    who.value = "";
    page.show({ aboutFailure: "" });
  };
  return (
    <form
      id="add-member"
      class="add-member"
      hidden={hidden}
      onSubmit={(event) => {
        event.preventDefault();
        void invite(event.currentTarget);
      }}
    >
      <input
        id="member-id"
        aria-label="Id of the person to add"
        placeholder="Id of a person"
        required
        autocomplete="off"
        autocapitalize="none"
        spellcheck={false}
      />
      <select id="member-role" aria-label="Role of the person to add">
        <option>editor</option>
        <option>viewer</option>
        <option>owner</option>
      </select>
      <button type="submit" class="plain">
        Add
      </button>
    </form>
  );
}

function Leaving({ page, onClose }: { page: Page; onClose: () => void }): JSX.Element {
  const { session } = page;
  const { id, me, members, role, title } = session.state;
  const mayLeave = members.length > 1 && !(role === "owner" && ownersOf(session.state) === 1);
  return (
    <div class="buttons">
      <button
        id="delete"
        type="button"
        class="plain alarm"
        hidden={!session.may("delete")}
        onClick={() => {
          onClose();
          void page.delete(id, title);
        }}
      >
        Delete chat
      </button>
      <button
        id="leave"
        type="button"
        class="plain alarm"
        hidden={!mayLeave}
        onClick={() => me !== null && void session.removeMember(me)}
      >
        Leave chat
      </button>
      <button id="about-close" type="button" class="plain" onClick={onClose}>
        Close
      </button>
    </div>
  );
}

function ownersOf({ members }: SessionState): number {
  return members.filter(({ role }) => role === "owner").length;
}
