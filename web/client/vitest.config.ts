// The client's tests need no browser: what they use of one is in Node too, or is given to the client.

import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    environment: "node",
    testTimeout: 30_000,
    restoreMocks: true,
  },
});
