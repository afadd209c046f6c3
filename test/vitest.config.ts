import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

// The tests run on the compiled tree: what is tested is what ships, worker threads and child processes included.
export default defineConfig({
  root: fileURLToPath(new URL('..', import.meta.url)),
  test: {
    include: ['dist/test/**/*.test.js'],
    exclude: [],
    server: { deps: { external: [/\/dist\//] } },
    // They end what hangs, and judge nothing: a busy machine may take its time.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    pool: 'forks',
    // Most tests wait for processes of their own; on two cores Vitest would run one file at a time.
    maxWorkers: 2,
  },
})
