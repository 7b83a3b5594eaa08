// The dialog about how the page looks and works.  Each choice holds at once.

import type { JSX } from "preact";

import type { Chosen, Settings } from "../state/settings.ts";
import { Dialog } from "./dialog.tsx";

interface Choice<Name extends keyof Chosen> {
  name: Name;
  legend: string;
  options: readonly { value: Chosen[Name]; label: string; hint?: string }[];
}

const THEME: Choice<"theme"> = {
  name: "theme",
  legend: "Colours",
  options: [
    { value: "system", label: "As the system" },
    { value: "light", label: "Light" },
    { value: "dark", label: "Dark" },
  ],
};

const DISPLAY: Choice<"display"> = {
  name: "display",
  legend: "Text appears",
  options: [
    { value: "smooth", label: "At an even pace", hint: "easier to read along" },
    { value: "raw", label: "As it comes", hint: "in the pieces that the network brings" },
  ],
};

const SEND_KEY: Choice<"send-key"> = {
  name: "send-key",
  legend: "A message is sent by",
  options: [
    { value: "enter", label: "Enter", hint: "Shift+Enter breaks the line" },
    { value: "mod-enter", label: "Ctrl+Enter, or ⌘+Enter", hint: "Enter breaks the line" },
  ],
};

interface SettingsDialogProps {
  settings: Settings;
  open: boolean;
  onClose: () => void;
}

export function SettingsDialog({ settings, open, onClose }: SettingsDialogProps): JSX.Element {
  return (
    <Dialog id="settings" open={open} onClose={onClose} labelledBy="settings-heading">
      <h2 id="settings-heading">Settings</h2>
      <Choosing settings={settings} choice={THEME} />
      <Choosing settings={settings} choice={DISPLAY} />
      <Choosing settings={settings} choice={SEND_KEY} />
      <p class="hint">Kept in this browser, for every tab.</p>
      <div class="buttons">
        <button id="settings-close" type="button" class="plain" onClick={onClose}>
          Close
        </button>
      </div>
    </Dialog>
  );
}

interface ChoosingProps<Name extends keyof Chosen> {
  settings: Settings;
  choice: Choice<Name>;
}

function Choosing<Name extends keyof Chosen>({ settings, choice }: ChoosingProps<Name>): JSX.Element {
  const { name, legend, options } = choice;
  return (
    <fieldset class="choosing">
      <legend>{legend}</legend>
      {options.map(({ value, label, hint }) => (
        <label key={String(value)} class="option">
          <input
            type="radio"
            name={name}
            value={String(value)}
            checked={settings.chosen[name] === value}
            onChange={() => settings.set(name, value)}
          />
          <span>
            {label}
            {hint && <small>{hint}</small>}
          </span>
        </label>
      ))}
    </fieldset>
  );
}
