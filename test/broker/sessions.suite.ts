import { createRequire } from 'node:module'
import { test } from 'node:test'
import { createSessions } from '../../broker/sessions.ts'
import { createSubscriptions } from '../../broker/subscriptions.ts'
import type { Sink } from '../../devices/sink.ts'
import { defaultConfig } from '../../src/config.ts'

/*
 * Aedes' own suite for what it expects of a persistence. It speaks the language of Node's test runner, so it is a
 * program of its own, started by sessions.test.ts.
 */
const sink: Sink = {
  accept: (_delivery, done) => done({ failure: null, accepted: 0, duplicates: 0, offset: 0 }),
  discard: () => {},
}

const limits = defaultConfig()
const subscriptions = createSubscriptions(limits)

type Suite = (options: { test: typeof test; testAsync: boolean; persistence(): unknown }) => void
const abstractPersistence: Suite = createRequire(import.meta.url)('aedes-persistence/abstract.js')

abstractPersistence({ test, testAsync: true, persistence: () => createSessions(sink, limits, [], subscriptions) })
