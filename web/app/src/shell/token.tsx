// The dialog that asks for a token.  The field is emptied as soon as the dialog closes, however it does.

import type { JSX } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";

import type { Access } from "../state/access.ts";
import { Dialog } from "./dialog.tsx";

export function TokenDialog({ access }: { access: Access }): JSX.Element {
  const field = useRef<HTMLInputElement>(null);
  const open = access.why !== null;
  useLayoutEffect(() => {
    if (!open && field.current !== null) field.current.value = "";
    else field.current?.focus();
  }, [open]);
  const enter = async (): Promise<void> => {
    await access.enter(field.current?.value ?? "");
    field.current?.select();
  };
  return (
    <Dialog
      id="token-dialog"
      open={open}
      onClose={() => access.leave()}
      labelledBy="token-title"
      describedBy="token-why token-kept"
    >
      <form
        id="token-form"
        onSubmit={(event) => {
          event.preventDefault();
          void enter();
        }}
      >
        <h2 id="token-title">Who is there?</h2>
        <p id="token-why" role="status">
          {access.why ?? ""}
        </p>
        <label for="token">Token or API key</label>
        <input
          id="token"
          ref={field}
          type="password"
          autocomplete="off"
          autocapitalize="none"
          spellcheck={false}
          required
        />
        <p id="token-kept" class="hint">
          It is kept in this tab only, until you close it.
        </p>
        <div class="buttons">
          <button id="token-later" type="button" class="plain" onClick={() => access.leave()}>
            Not now
          </button>
          <button id="token-connect" type="submit" disabled={access.checking}>
            Connect
          </button>
        </div>
      </form>
    </Dialog>
  );
}
