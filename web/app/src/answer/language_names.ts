// What languages are called behind a fence.  Known before any of them is loaded.

const NAMES =
  "bash c cpp csharp css diff dockerfile go ini java javascript json kotlin lua makefile php python ruby rust shell " +
  "sql swift typescript xml yaml";

/** Other names of languages. */
export const ALIASES: Record<string, string> = {
  sh: "bash", zsh: "bash", console: "shell", shellsession: "shell", "c++": "cpp", cc: "cpp", h: "c", hpp: "cpp",
  cs: "csharp", "c#": "csharp", patch: "diff", docker: "dockerfile", golang: "go", toml: "ini", js: "javascript",
  jsx: "javascript", mjs: "javascript", node: "javascript", jsonc: "json", json5: "json", kt: "kotlin",
  make: "makefile", py: "python", python3: "python", rb: "ruby", rs: "rust", ts: "typescript", tsx: "typescript",
  html: "xml", svg: "xml", vue: "xml", yml: "yaml", scss: "css", postgresql: "sql", sqlite: "sql", mysql: "sql",
};

export const LANGUAGES: ReadonlySet<string> = new Set([...NAMES.split(" "), ...Object.keys(ALIASES)]);
