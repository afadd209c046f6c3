import { readdirSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { Reading } from '../../devices/reading.ts'
import { emptyDelivery } from '../../devices/sink.ts'
import { createDictionary } from '../../src/dictionary.ts'
import { openDatabase } from '../../src/store/sqlite/database.ts'
import { openSqliteStore } from '../../src/store/sqlite/sqlite-store.ts'
import type { Store } from '../../src/store/store.ts'
import { createWriter } from '../../src/writer.ts'
import { storeContract } from '../contracts/store.ts'
import { temporaryFolder, waitFor } from '../hub-process.ts'

const open = (folder: string) => openSqliteStore({ folder, durability: 'fsync' })

const t0 = 1_700_000_000_000
const push = async (store: Store, readings: Reading[]) => {
  const writer = createWriter(store, createDictionary(store.opened), () => {})
  const outcome = await new Promise((resolve) => writer.accept({ ...emptyDelivery('test'), readings }, resolve))
  await writer.close()
  return outcome
}
const readings = (from: number, count: number): Reading[] =>
  Array.from({ length: count }, (_, i) => ({ device: 'd', ts: t0 + from + i, metrics: ['n'], values: [from + i] }))

/** A folder whose store holds 5,000 readings, all of them in one block. */
async function sealedFolder(): Promise<string> {
  const folder = await temporaryFolder()
  const store = await open(folder)
  await push(store, readings(0, 5000))
  await waitFor(async () => (await store.figures()).unsealed === 0)
  await store.close()
  return folder
}

describe('the store in SQLite', () => {
  storeContract(open, temporaryFolder)

  test.skipIf(process.platform !== 'linux')('the thread that answers history gives way to all others', async () => {
    // man 5 proc: the 19th field of stat is how nice a thread is, the name in brackets counts as the second.
    const niceness = (thread: string) =>
      Number(
        readFileSync(`/proc/self/task/${thread}/stat`, 'utf8')
          .replace(/^.*\) /, '')
          .split(' ')[16],
      )
    const before = new Set(readdirSync('/proc/self/task'))
    const store = await open(await temporaryFolder())
    await push(store, readings(0, 1))
    await store.offsetAt(0)
    const started = readdirSync('/proc/self/task').filter((thread) => !before.has(thread))
    expect(started.filter((thread) => niceness(thread) > niceness(String(process.pid)))).toHaveLength(1)
    await store.close()
  })

  test('a damaged block is told, and keeps nobody from pushing, late readings among them', async () => {
    const folder = await sealedFolder()
    const db = openDatabase(join(folder, 'hub.db'))
    const [block] = db.prepare('SELECT id, data FROM blocks').all() as { id: number; data: Buffer }[]
    const { id, data } = block as { id: number; data: Buffer }
    data[data.length >> 1] = (data[data.length >> 1] as number) ^ 0xff
    db.prepare('UPDATE blocks SET data = ? WHERE id = ?').run(data, id)
    db.close()

    const store = await open(folder)
    const told: string[] = []
    const failures: unknown[] = []
    store.onDamage((what) => told.push(what))
    store.onStatus(({ failure }) => failures.push(failure))
    const late: Reading = { device: 'd', ts: t0 + 17, metrics: ['n'], values: [-1] }
    expect(await push(store, [late, ...readings(10_000, 3)])).toMatchObject({ failure: null, accepted: 4 })
    // Heads of this device that are sealed from now on have the damaged block among those to be merged with.
    for (let i = 1; i <= 10; i++) await push(store, readings(20_000 * i, 4500))
    await waitFor(async () => (await store.figures()).unsealed < 4096)
    expect(told).toEqual([expect.stringContaining(`block ${id} of history cannot be read`)])
    expect((await store.figures()).damagedBlocks).toBe(1)
    expect(failures).toEqual([])
    await store.close()
  })

  test('a newest value, or a place of the log, that is not what was written is an error', async () => {
    const harms = [
      `UPDATE devices SET latest = replace(latest, '4999', '9999')`,
      'UPDATE log SET count = count - 1 WHERE "offset" = 1',
    ]
    for (const harm of harms) {
      const folder = await sealedFolder()
      const db = openDatabase(join(folder, 'hub.db'))
      expect(db.prepare(harm).run().changes).toBe(1)
      db.close()
      await expect(open(folder)).rejects.toThrow(/the checksum of .* is wrong.*restore a backup/)
    }
  })

  test('a page of the log that cannot be read to its end leaves nothing to the next one', async () => {
    const folder = await temporaryFolder()
    const before = await open(folder)
    await push(before, readings(0, 1))
    await before.close()
    const store = await open(folder)
    await push(store, readings(1, 1))
    const db = openDatabase(join(folder, 'hub.db'))
    expect(db.prepare('UPDATE log SET crc = crc + 1 WHERE "offset" = 2').run().changes).toBe(1)
    db.close()
    const whole = { after: 1, limit: 10, filter: { devices: [], metrics: [] } }
    await expect(store.readLog({ ...whole, before: 3 })).rejects.toThrow('the checksum of the log at 2 is wrong')
    const others = await store.readLog({ ...whole, before: 2, filter: { devices: ['other'], metrics: [] } })
    expect(others).toMatchObject({ ends: [], offsets: [], next: 2 })
    expect(others.text).toHaveLength(0)
    await store.close()
  })

  test('says what to do about a folder that another hub uses', async () => {
    const folder = await temporaryFolder()
    const store = await open(folder)
    await expect(open(folder)).rejects.toThrow(/another hub is running on the folder .*--data/)
    await store.close()
    // Closing twice is fine.
    await store.close()
    await (await open(folder)).close()
  })

  test('says what to do about a file of a newer version, and about one that is no database', async () => {
    const folder = await temporaryFolder()
    const db = openDatabase(join(folder, 'hub.db'))
    db.exec('PRAGMA user_version = 999')
    db.close()
    await expect(open(folder)).rejects.toThrow(/newer telemetry-hub .*999.*--data/)
    const other = await temporaryFolder()
    await writeFile(join(other, 'hub.db'), 'this is a letter to my mother, and not a database at all. '.repeat(100))
    await expect(open(other)).rejects.toThrow(/not a sound database.*restore a backup/)
  })

  test('says what to do about a folder that cannot be written', async () => {
    const folder = await temporaryFolder()
    await writeFile(join(folder, 'file'), '')
    await expect(open(join(folder, 'file', 'below'))).rejects.toThrow(/cannot write to the folder .*--data/)
  })
})
