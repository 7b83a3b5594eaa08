// One side of a comparison as it is seen: which model, how it is asked, and what it has answered.

import type { Model } from "@everstream/client";
import type { JSX } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

import { ExchangeView } from "./answer.tsx";
import { fieldsFor } from "./fields.ts";
import type { Field } from "./fields.ts";
import type { Side } from "./side.ts";

const NEAR_PX = 40; // who is this near to the end follows it

export interface SideProps {
  side: Side;
  place: "left" | "right";
  models: readonly Model[];
  now: number;
  smooth: boolean;
}

export function SideView({ side, place, models, now, smooth }: SideProps): JSX.Element {
  const [, redraw] = useState(0);
  const answers = useFollowing(side);
  const name = place === "left" ? "Left" : "Right";
  const choose = (model: string): void => {
    side.model = model;
    redraw((count) => count + 1);
  };
  return (
    <section class="compare-side" data-side={place} aria-label={`${name}: ${side.model}`}>
      <div class="compare-side-head">
        <span class="swatch" aria-hidden="true" />
        <select
          aria-label={`${name} model`}
          value={side.model}
          onChange={(event) => choose(event.currentTarget.value)}
        >
          {offered(models, side.model).map((id) => (
            <option key={id} value={id}>
              {id}
            </option>
          ))}
        </select>
        <button
          class="stop plain"
          hidden={!side.live}
          aria-label={`Stop the ${place} answer`}
          onClick={() => side.stop()}
        >
          Stop
        </button>
      </div>
      <Fields side={side} place={place} thinks={models.find(({ id }) => id === side.model)?.thinking !== false} />
      <div class="compare-answers" ref={answers} tabIndex={0} role="group" aria-label={`${name} answers`}>
        {side.exchanges.length === 0 && <p class="hint">What it answers will stand here.</p>}
        {side.exchanges.map((exchange) => (
          <ExchangeView key={exchange.askedAt} exchange={exchange} now={now} smooth={smooth} />
        ))}
      </div>
    </section>
  );
}

/** The usable models, and the one that is chosen even where it has become unusable. */
function offered(models: readonly Model[], chosen: string): string[] {
  const usable = models.filter((model) => model.usable).map(({ id }) => id);
  return usable.includes(chosen) || chosen === "" ? usable : [chosen, ...usable];
}

function Fields({ side, place, thinks }: { side: Side; place: string; thinks: boolean }): JSX.Element {
  const fields = fieldsFor(side.model);
  const fill = (field: Field, value: string | boolean): void => {
    side.filled = { ...side.filled, [field.name]: value };
  };
  return (
    <details class="compare-fields">
      <summary>Parameters</summary>
      <div class="fields">
        {fields.map((field) => (
          <label key={field.name} class={field.kind === "text" ? "wide" : field.kind === "check" ? "check" : undefined}>
            {field.kind !== "check" && field.label}
            <FieldInput
              id={`compare-${place}-${field.name}`}
              field={field}
              value={side.filled[field.name]}
              disabled={field.name === "thinking" && !thinks}
              onFill={(value) => fill(field, value)}
            />
            {field.kind === "check" && field.label}
          </label>
        ))}
      </div>
    </details>
  );
}

interface InputProps {
  id: string;
  field: Field;
  value: string | boolean | undefined;
  disabled: boolean;
  onFill: (value: string | boolean) => void;
}

/** Uncontrolled: what is typed belongs to the field, and is told as it changes. */
function FieldInput({ id, field, value, disabled, onFill }: InputProps): JSX.Element {
  if (field.kind === "check") {
    return (
      <input
        id={id}
        type="checkbox"
        defaultChecked={value === true}
        disabled={disabled}
        onInput={(event) => onFill(event.currentTarget.checked)}
      />
    );
  }
  const text = typeof value === "string" ? value : "";
  if (field.kind === "text") {
    return <textarea id={id} rows={2} defaultValue={text} onInput={(event) => onFill(event.currentTarget.value)} />;
  }
  const { min, max, step = field.kind === "whole" ? 1 : "any" } = field;
  const bounds = { ...(min === undefined ? {} : { min }), ...(max === undefined ? {} : { max }) };
  return (
    <input
      id={id}
      type="number"
      inputMode={field.kind === "whole" ? "numeric" : "decimal"}
      placeholder="default"
      step={step}
      {...bounds}
      defaultValue={text}
      onInput={(event) => onFill(event.currentTarget.value)}
    />
  );
}

/** Keep the end in sight for who is there, and leave alone who has scrolled up. */
function useFollowing(side: Side): { current: HTMLDivElement | null } {
  const list = useRef<HTMLDivElement>(null);
  const asked = useRef(0);
  const following = useRef(true);
  useLayoutEffect(() => {
    const element = list.current as HTMLDivElement;
    const scrolled = (): void => {
      following.current = element.scrollHeight - element.scrollTop - element.clientHeight < NEAR_PX;
    };
    element.addEventListener("scroll", scrolled, { passive: true });
    return () => element.removeEventListener("scroll", scrolled);
  }, []);
  useLayoutEffect(() => {
    const element = list.current as HTMLDivElement;
    const { length } = side.exchanges;
    if (length !== asked.current) following.current = true;
    asked.current = length;
    if (following.current) element.scrollTop = element.scrollHeight;
  });
  return list;
}
