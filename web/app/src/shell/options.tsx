// What is folded away below the prompt: the parameters, the models that are not usable yet, and the token.

import type { JSX } from "preact";

import type { Page } from "../state/page.ts";
import { type Chosen, SCRIPTED } from "../state/settings.ts";

const KEY_HINT = "Only scripted models answer so far: they need no key and cost nothing. Real ones:";
const NO_WAYS = "start the server with a provider's key, such as OPENAI_API_KEY.";

interface NumberProps {
  page: Page;
  field: keyof { [Name in keyof Chosen as Chosen[Name] extends string ? Name : never]: Chosen[Name] };
  label: string;
  least: number;
  whole?: boolean;
  hidden?: boolean;
}

function NumberField({ page, field, label, least, whole, hidden }: NumberProps): JSX.Element {
  return (
    <label hidden={hidden ?? false}>
      {label}
      <input
        id={field}
        type="number"
        min={least}
        step={whole ? 1 : "any"}
        inputmode={whole ? "numeric" : "decimal"}
        placeholder="default"
        value={page.settings.chosen[field]}
        onInput={(event) => page.settings.set(field, event.currentTarget.value)}
      />
    </label>
  );
}

export function Options({ page }: { page: Page }): JSX.Element {
  return (
    <div class="folds">
      <details id="options">
        <summary>Options</summary>
        <Fields page={page} />
      </details>
      <MoreModels page={page} />
      <button
        id="forget-token"
        type="button"
        class="quiet"
        hidden={!page.access.has}
        onClick={() => page.forgetToken()}
      >
        Forget token
      </button>
    </div>
  );
}

function Fields({ page }: { page: Page }): JSX.Element {
  const { settings, session, model, modelInfo } = page;
  const scripted = model.startsWith(SCRIPTED);
  return (
    <div class="fields">
      <label id="system-field" class="wide" hidden={session.id !== null}>
        System prompt of the new chat
        <textarea
          id="system"
          rows={2}
          placeholder="How the model should behave"
          value={settings.chosen.system}
          onInput={(event) => settings.set("system", event.currentTarget.value)}
        />
      </label>
      <NumberField page={page} field="temperature" label="Temperature" least={0} />
      <NumberField page={page} field="max-tokens" label="Most tokens" least={1} whole />
      <label class="check">
        <input
          id="thinking"
          type="checkbox"
          checked={settings.chosen.thinking}
          disabled={modelInfo?.thinking === false}
          onChange={(event) => settings.set("thinking", event.currentTarget.checked)}
        />
        Let the model think first
      </label>
      <NumberField page={page} field="tokens" label="Tokens to play" least={1} whole hidden={!scripted} />
      <NumberField page={page} field="rate" label="Tokens a second" least={0} hidden={!scripted} />
    </div>
  );
}

/** How to get the models that are not usable: one line for each way, not for each model. */
function MoreModels({ page }: { page: Page }): JSX.Element {
  const { ways, onlyScripted } = page.offer;
  const wanted = onlyScripted && page.models.length > 0;
  return (
    <details id="more-models" class={wanted ? "wanted" : ""} hidden={ways.length === 0 && !wanted}>
      <summary>More models</summary>
      <ul id="more-models-list">
        {wanted && <li>{KEY_HINT}</li>}
        {ways.map(({ provider, how }) => (
          <li key={how}>
            <b>{provider}</b>
            {`: ${how}`}
          </li>
        ))}
        {wanted && ways.length === 0 && <li>{NO_WAYS}</li>}
      </ul>
    </details>
  );
}
