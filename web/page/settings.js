// What the reader chose: the model and its parameters.  Kept in localStorage, for every tab and the next visit.

import { element } from "./text.js";

const STORAGE_KEY = "everstream.settings.1";
const SCRIPTED = "scripted/";
const KEY_HINT = "Only scripted models answer so far: they need no key and cost nothing. Real ones:";

// Field id -> name of the parameter, how it is read, and whether only scripted models know it.
const FIELDS = {
  temperature: { param: "temperature", read: anyNumber },
  "max-tokens": { param: "max_tokens", read: wholeNumber },
  thinking: { param: "thinking", read: (field) => (field.checked && !field.disabled ? true : undefined) },
  tokens: { param: "tokens", read: wholeNumber, scripted: true },
  rate: { param: "rate", read: anyNumber, scripted: true },
};

function wholeNumber(field) {
  const value = anyNumber(field);
  return value === undefined ? undefined : Math.round(value);
}

function anyNumber(field) {
  return Number.isFinite(field.valueAsNumber) && field.checkValidity() ? field.valueAsNumber : undefined;
}

export class Settings {
  #storage;
  #chosen;
  #models = [];
  #select = document.getElementById("model");
  // The system prompt is no parameter: a session has one of its own, and a new one gets this.
  #fields = Object.fromEntries(["system", ...Object.keys(FIELDS)].map((id) => [id, document.getElementById(id)]));

  constructor(storage) {
    this.#storage = storage;
    this.#chosen = stored(storage);
    for (const [id, field] of Object.entries(this.#fields)) {
      const value = this.#chosen[id];
      if (field.type === "checkbox") field.checked = value === true;
      else if (typeof value === "string") field.value = value;
      field.addEventListener("change", () => this.#keep());
    }
    this.#select.addEventListener("change", () => {
      this.#chosen.model = this.model;
      this.#fit();
      this.#keep();
    });
  }

  /** The chosen model's id, or "" when there is none to choose. */
  get model() {
    return this.#select.value;
  }

  /** What a new session is told first, or "". */
  get system() {
    return this.#fields.system.value.trim();
  }

  /** The parameters for the chosen model: those that were filled in and that it knows. */
  params() {
    const params = {};
    for (const [id, { param, read, scripted }] of Object.entries(FIELDS)) {
      const value = read(this.#fields[id]);
      if (value !== undefined && (!scripted || this.model.startsWith(SCRIPTED))) params[param] = value;
    }
    return params;
  }

  /**
   * Offer what the server has.  Keeps the choice where it is still there; who chose nothing gets a real model as soon as
   * one is usable, and keeps that.
   */
  offer(models) {
    this.#models = models.filter((model) => model.usable);
    const wanted = this.#chosen.model || (this.model.startsWith(SCRIPTED) ? "" : this.model);
    this.#select.replaceChildren(...this.#models.map(({ id }) => element("option", "", id)));
    this.#select.disabled = this.#models.length === 0;
    if (this.#models.length === 0) this.#select.append(element("option", "", "no model is usable"));
    const real = this.#models.find(({ id }) => !id.startsWith(SCRIPTED));
    const first = real ?? this.#models.find(({ id }) => id === "scripted/lorem") ?? this.#models[0];
    const known = this.#models.find(({ id }) => id === wanted);
    if (first) this.#select.value = (known ?? first).id;
    else this.#select.lastElementChild.value = "";
    this.#hint(models, real === undefined);
    this.#fit();
  }

  /** Say how to get the models that are not usable: one line for each way, not for each model. */
  #hint(models, onlyScripted) {
    const ways = new Map();
    for (const { id, usable, why_not } of models) {
      if (!usable && !ways.has(why_not)) ways.set(why_not, id.slice(0, id.indexOf("/")));
    }
    const fold = document.getElementById("more-models");
    fold.hidden = ways.size === 0 && !onlyScripted;
    fold.classList.toggle("wanted", onlyScripted);
    const lines = [...ways].map(([way, provider]) => {
      const line = element("li", "");
      line.append(element("b", "", provider), `: ${way ?? "is not usable"}`);
      return line;
    });
    if (onlyScripted) lines.unshift(element("li", "", KEY_HINT));
    if (onlyScripted && ways.size === 0) {
      lines.push(element("li", "", "start the server with a provider's key, such as OPENAI_API_KEY."));
    }
    document.getElementById("more-models-list").replaceChildren(...lines);
  }

  /** Show only the fields that the chosen model knows. */
  #fit() {
    const scripted = this.model.startsWith(SCRIPTED);
    for (const label of document.querySelectorAll("label.scripted")) label.hidden = !scripted;
    const model = this.#models.find(({ id }) => id === this.model);
    this.#fields.thinking.disabled = model?.thinking === false;
  }

  #keep() {
    this.#chosen = { model: this.#chosen.model };
    for (const [id, field] of Object.entries(this.#fields)) {
      this.#chosen[id] = field.type === "checkbox" ? field.checked : field.value;
    }
    try {
      this.#storage.setItem(STORAGE_KEY, JSON.stringify(this.#chosen));
    } catch {
      // Full or forbidden: the choice lasts as long as the page.
    }
  }
}

function stored(storage) {
  try {
    const value = JSON.parse(storage.getItem(STORAGE_KEY) ?? "{}");
    return typeof value === "object" && value !== null ? value : {};
  } catch {
    return {};
  }
}
