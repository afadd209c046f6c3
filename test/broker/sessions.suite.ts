import { mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { createPersistence } from '../../broker/sessions/persistence.ts'
import { createSessions } from '../../broker/sessions/sessions.ts'
import { defaultConfig } from '../../src/config.ts'
import { createDictionary } from '../../src/dictionary.ts'
import { openSqliteStore } from '../../src/store/sqlite/sqlite-store.ts'
import { createWriter } from '../../src/writer.ts'

/*
 * Aedes' own suite for what it expects of a persistence, over the real store. It speaks the language of Node's test
 * runner, so it is a program of its own, started by sessions.test.ts.
 */
const folder = mkdtempSync(join(tmpdir(), 'telemetry-hub-'))
const store = await openSqliteStore({ folder, durability: 'os' })
const writer = createWriter(store, createDictionary(store.opened), () => {})
after(async () => {
  await writer.close()
  await store.close()
  rmSync(folder, { recursive: true })
})

type Suite = (options: { test: typeof test; testAsync: boolean; persistence(): unknown }) => void
const abstractPersistence: Suite = createRequire(import.meta.url)('aedes-persistence/abstract.js')

abstractPersistence({
  test,
  testAsync: true,
  persistence() {
    const limits = defaultConfig()
    const sessions = createSessions(writer, limits, { handshakes: [], notes: [] })
    return createPersistence(sessions, writer, () => true)
  },
})
