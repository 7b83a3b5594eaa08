// What a comparison found: the figures of each run, in words and as a Markdown table to take elsewhere.

export type Outcome = "running" | "complete" | "cancelled" | "failed" | "interrupted" | "budget" | "refused";

export interface SideFigures {
  readonly model: string;
  readonly ttftMs: number | null;
  readonly tokens: number | null;
  readonly estimated: boolean; // the tokens were counted here, or by the server, not by the provider
  readonly perSecond: number | null;
  readonly cost: { readonly total: number; readonly currency: string } | null;
  readonly totalMs: number | null;
  readonly outcome: Outcome;
}

/** One prompt to both. */
export interface Run {
  readonly n: number; // from 1
  readonly prompt: string;
  readonly sides: readonly [SideFigures, SideFigures];
}

export interface FigureColumn {
  readonly name: string;
  readonly label: string;
  readonly of: (figures: SideFigures) => string;
}

export const NOTHING = "–";
const PROMPT_CHARACTERS = 60;

const OUTCOMES: Record<Outcome, string> = {
  running: "running …",
  complete: "complete",
  cancelled: "stopped",
  failed: "failed",
  interrupted: "interrupted",
  budget: "budget used up",
  refused: "not begun",
};

/** The columns of the table, on the page and in Markdown. */
export const COLUMNS: readonly FigureColumn[] = [
  { name: "ttft", label: "First token", of: ({ ttftMs }) => duration(ttftMs) },
  { name: "tokens", label: "Tokens", of: tokensLabel },
  { name: "rate", label: "Tokens/s", of: ({ perSecond }) => rounded(perSecond) },
  { name: "cost", label: "Cost", of: costLabel },
  { name: "total", label: "Total", of: ({ totalMs }) => duration(totalMs) },
  { name: "end", label: "End", of: ({ outcome }) => OUTCOMES[outcome] },
];

export function duration(ms: number | null): string {
  if (ms === null || !Number.isFinite(ms)) return NOTHING;
  if (ms < 999.5) return `${Math.max(0, Math.round(ms))} ms`;
  return ms < 99_950 ? `${(ms / 1_000).toFixed(1)} s` : `${Math.round(ms / 1_000)} s`;
}

export function rounded(value: number | null): string {
  if (value === null || !Number.isFinite(value)) return NOTHING;
  return value < 99.95 ? value.toFixed(1) : String(Math.round(value));
}

function tokensLabel({ tokens, estimated }: SideFigures): string {
  if (tokens === null) return NOTHING;
  return `${estimated ? "≈ " : ""}${tokens}`;
}

function costLabel({ cost }: SideFigures): string {
  return cost === null ? NOTHING : `${Number(cost.total.toPrecision(2))} ${cost.currency}`;
}

/** Which side has the better figure, where both have ended whole and one is better by a twentieth; else null. */
export function better(run: Run, figure: "ttftMs" | "perSecond"): 0 | 1 | null {
  const [one, other] = run.sides;
  const [a, b] = [one[figure], other[figure]];
  if (one.outcome !== "complete" || other.outcome !== "complete" || a === null || b === null) return null;
  if (Math.abs(a - b) <= 0.05 * Math.max(a, b)) return null;
  return a < b === (figure === "ttftMs") ? 0 : 1;
}

export function shortened(prompt: string): string {
  const line = prompt.replace(/\s+/g, " ").trim();
  return line.length <= PROMPT_CHARACTERS ? line : `${line.slice(0, PROMPT_CHARACTERS - 1).trimEnd()}…`;
}

/** The table as GitHub and most others read it: a row a run and side. */
export function markdownTable(runs: readonly Run[]): string {
  const head = ["Run", "Prompt", "Model", ...COLUMNS.map(({ label }) => label)];
  const rows = runs.flatMap((run) =>
    run.sides.map((figures) => [
      String(run.n),
      cell(shortened(run.prompt)),
      cell(figures.model),
      ...COLUMNS.map(({ of }) => cell(of(figures))),
    ]),
  );
  const rule = head.map((_, place) => (place === 0 || (place > 2 && place < head.length - 1) ? "---:" : "---"));
  return [head, rule, ...rows].map((cells) => `| ${cells.join(" | ")} |\n`).join("");
}

/** What would end a cell, or mean something, is escaped. */
function cell(text: string): string {
  return text.replace(/[\\|`*_<[\]]/g, (sign) => `\\${sign}`);
}
