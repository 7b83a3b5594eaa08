// What the compiler leaves to do for the package: declarations that name the files which are there, nothing of a source
// that is gone, and the licence beside it all.

import { copyFileSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";

const here = (path) => new URL(path, import.meta.url);

for (const file of readdirSync(here("dist/"))) {
  const source = file.replace(/(\.d\.ts|\.js|\.js\.map)$/, ".ts");
  if (!existsSync(here(`src/${source}`))) rmSync(here(`dist/${file}`));
  else if (file.endsWith(".d.ts")) {
    const said = readFileSync(here(`dist/${file}`), "utf-8");
    writeFileSync(here(`dist/${file}`), said.replace(/((?:from|import\() ?"\.\/[^"]+)\.ts"/g, '$1.js"'));
  }
}
copyFileSync(here("../../LICENSE"), here("LICENSE"));
