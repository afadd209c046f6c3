import { createRequire } from 'node:module'
import { test } from 'node:test'
import { createSessions } from '../../broker/sessions.ts'

/*
 * Aedes' own suite for what it expects of a persistence. It speaks the language of Node's test runner, so it is a
 * program of its own, started by sessions.test.ts.
 */
const durable = {
  release: (_handshake: unknown, done: (failure: string | null) => void) => done(null),
  discard: () => {},
}

type Suite = (options: { test: typeof test; testAsync: boolean; persistence(): unknown }) => void
const abstractPersistence: Suite = createRequire(import.meta.url)('aedes-persistence/abstract.js')

abstractPersistence({ test, testAsync: true, persistence: () => createSessions(durable, []) })
