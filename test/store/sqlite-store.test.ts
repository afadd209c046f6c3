import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { describe, expect, test } from 'vitest'
import { openSqliteStore } from '../../src/store/sqlite/sqlite-store.ts'
import { storeContract } from '../contracts/store.ts'
import { temporaryFolder } from '../hub-process.ts'

const open = (folder: string) => openSqliteStore({ folder, durability: 'fsync' })

describe('the store in SQLite', () => {
  storeContract(open, temporaryFolder)

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
    const db = new Database(join(folder, 'hub.db'))
    db.pragma('user_version = 999')
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
