// The page is built into the Python package, which serves it.  Nothing in it comes from elsewhere at run time: no CDN,
// no font, no inline script or style (the server's Content-Security-Policy forbids them).

import preact from "@preact/preset-vite";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

export default defineConfig({
  root: here("."),
  base: "./", // a proxy may put a path before it
  plugins: [preact({ devToolsEnabled: false, prefreshEnabled: false })],
  resolve: { alias: { "@everstream/client": here("../client/src/index.ts") } },
  build: {
    outDir: here("../../backend/everstream/_web"),
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // an inlined asset is a data: address, which the policy would have to allow
    modulePreload: { polyfill: false },
    rollupOptions: { input: { index: here("index.html"), api: here("api.html") } },
  },
  server: { proxy: { "/ws": { target: "http://127.0.0.1:8000", ws: true }, "/v1": "http://127.0.0.1:8000" } },
});
