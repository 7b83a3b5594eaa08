// The page is built into the Python package, which serves it.  Nothing in it comes from elsewhere at run time: no CDN,
// no font, no inline script or style (the server's Content-Security-Policy forbids them).
//
// Preact needs no plugin: Vite's own compiler turns JSX into calls of its runtime.

import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { defineConfig } from "vite";
import type { Plugin } from "vite";

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

const COMPRESSED = /\.(?:html|js|css|svg)$/;
const WORTH_BYTES = 1000; // a smaller file fits into a packet as it is

/** Puts a `.br` and a `.gz` beside each file that gets smaller by it: the server compresses nothing itself. */
function compressed(): Plugin {
  return {
    name: "everstream-compressed",
    apply: "build",
    writeBundle({ dir }) {
      for (const name of readdirSync(dir ?? here("."), { recursive: true, encoding: "utf8" })) {
        if (!COMPRESSED.test(name)) continue;
        const path = join(dir ?? here("."), name);
        const plain = readFileSync(path);
        if (plain.length < WORTH_BYTES) continue;
        writeFileSync(`${path}.br`, brotliCompressSync(plain));
        writeFileSync(`${path}.gz`, gzipSync(plain, { level: 9 }));
      }
    },
  };
}

export default defineConfig({
  root: here("."),
  base: "./", // a proxy may put a path before it
  plugins: [compressed()],
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  resolve: { alias: { "@everstream/client": here("../client/src/index.ts") } },
  build: {
    outDir: here("../../backend/everstream/_web"),
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // every file has an address of its own
    modulePreload: { polyfill: false },
    license: { fileName: "licenses.md" }, // of the packages in the bundle, which ask to be named
    rollupOptions: { input: { index: here("index.html"), api: here("api.html") } },
  },
  server: { proxy: { "/ws": { target: "http://127.0.0.1:8000", ws: true }, "/v1": "http://127.0.0.1:8000" } },
});
