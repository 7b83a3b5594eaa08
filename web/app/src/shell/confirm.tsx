// The question before what cannot be undone.

import type { JSX } from "preact";

import type { Page } from "../state/page.ts";
import { Dialog } from "./dialog.tsx";

export function Confirm({ page }: { page: Page }): JSX.Element {
  const { question } = page;
  return (
    <Dialog id="confirm" open={question !== null} onClose={() => question?.answer(false)} labelledBy="confirm-question">
      <p id="confirm-question">{question?.text ?? ""}</p>
      <div class="buttons">
        <button type="button" value="no" class="plain" onClick={() => question?.answer(false)}>
          Cancel
        </button>
        <button id="confirm-yes" type="button" value="yes" class="alarm" onClick={() => question?.answer(true)}>
          {question?.action ?? "Delete"}
        </button>
      </div>
    </Dialog>
  );
}
