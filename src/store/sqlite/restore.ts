import { randomBytes } from 'node:crypto'
import { chmodSync, existsSync, renameSync } from 'node:fs'
import { copyFile } from 'node:fs/promises'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { removeDatabase, syncFolder } from './backup.ts'
import { lockFolder } from './folder-lock.ts'
import { earlierLogs } from './lineage.ts'
import { UnusableFile } from './schema.ts'
import { checkDatabase } from './soundness.ts'

export interface RestoreOptions {
  file: string
  /** Where the hub shall find it; no hub may be running there. */
  folder: string
  /** Put a database that is there aside. */
  force: boolean
}

export interface RestoreResult {
  /** The last reading of the log. */
  through: number
  /** Where the database of before is now. */
  aside: string | null
}

/** Makes a backup the database of a folder. Throws `UnusableFile` with what to do, and then nothing has changed. */
export async function restore({ file, folder, force }: RestoreOptions): Promise<RestoreResult> {
  if (!existsSync(file)) throw new UnusableFile(`there is no file ${file}`)
  const lock = lockFolder(folder)
  const target = join(folder, 'hub.db')
  const partial = `${target}.partial`
  try {
    const occupied = existsSync(target)
    if (occupied && !force) {
      throw new UnusableFile(
        `${folder} holds a database: choose another folder with --data, or put it aside with --force`,
      )
    }
    // What is checked is the copy that will be used.
    removeDatabase(partial)
    for (const end of ['', '-wal']) {
      // One that was put aside may have its last commits there.
      if (existsSync(file + end)) await copyFile(file + end, partial + end)
    }
    chmodSync(partial, 0o600)
    const { hub, end } = checkDatabase(partial, file)
    beginLog(partial, hub, end)
    const aside = occupied ? putAside(target) : null
    // The WAL of another database would be played into this one.
    removeDatabase(target)
    renameSync(partial, target)
    syncFolder(folder)
    return { through: end - 1, aside }
  } catch (error) {
    removeDatabase(partial)
    if (error instanceof UnusableFile) throw error
    throw new UnusableFile(`nothing was restored: ${(error as Error).message}`)
  } finally {
    lock.close()
  }
}

/**
 * The log goes on from here in another way than it did, with other readings at the same offsets. It gets a name of its
 * own, and remembers how far it is the same: a cursor from beyond that would skip what comes now. Consumers begin an
 * epoch, as after a seek: workers and receivers of webhooks may have taken other readings under the identifiers to come.
 */
function beginLog(path: string, former: string, end: number): void {
  const db = new Database(path)
  try {
    db.pragma('journal_mode = DELETE')
    db.pragma('synchronous = FULL')
    const keep = db.prepare('INSERT OR REPLACE INTO hub (key, value) VALUES (?, ?)')
    db.transaction(() => {
      keep.run('earlier', JSON.stringify([...earlierLogs(db), { hub: former, end }]))
      keep.run('id', randomBytes(5).toString('hex'))
      db.prepare(
        `UPDATE consumers SET state = json_set(state, '$.epoch', max(json_extract(state, '$.epoch') + 1, ?))`,
      ).run(Date.now())
    })()
  } finally {
    db.close()
  }
}

/** The WAL goes with it: it may hold the last commits. */
function putAside(target: string): string {
  const aside = `${target}.before-restore-${new Date().toISOString().replace(/[-:]|\.\d+/g, '')}`
  if (existsSync(aside)) throw new UnusableFile(`${aside} is there already: try again in a second`)
  renameSync(target, aside)
  if (existsSync(`${target}-wal`)) renameSync(`${target}-wal`, `${aside}-wal`)
  return aside
}
