// The dialog that lists the keys.

import type { JSX } from "preact";

import { KEYS } from "./shortcuts.ts";
import { Dialog } from "./dialog.tsx";

export function HelpDialog({ open, onClose }: { open: boolean; onClose: () => void }): JSX.Element {
  return (
    <Dialog id="help" open={open} onClose={onClose} labelledBy="help-heading">
      <h2 id="help-heading">Keyboard shortcuts</h2>
      <dl class="keys-list">
        {KEYS.map(({ keys, what }) => (
          <div key={what}>
            <dt>{what}</dt>
            <dd>
              {keys.map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dd>
          </div>
        ))}
      </dl>
      <div class="buttons">
        <button id="help-close" type="button" class="plain" onClick={onClose}>
          Close
        </button>
      </div>
    </Dialog>
  );
}
