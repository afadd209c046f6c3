import { randomBytes } from 'node:crypto'
import {
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  fsyncSync,
  linkSync,
  openSync,
  renameSync,
  rmSync,
} from 'node:fs'
import { join } from 'node:path'
import type Database from 'better-sqlite3'
import { copyPages, openEmpty, removeDatabase, syncFolder } from './backup.ts'
import { checkpoint, openDatabase } from './database.ts'
import { lockFolder } from './folder-lock.ts'
import { earlierLogs } from './lineage.ts'
import { openForWriting, UnusableFile } from './schema.ts'
import { checkDatabase, isUnsound } from './soundness.ts'

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
    const made = openEmpty(partial)
    try {
      // A hub may be running on it, and one that was put aside may have its last commits in a WAL.
      await copyPages(file, partial, made, new AbortController().signal)
      // What is checked is the copy that will be used.
      const { hub, end } = checkDatabase(partial, file)
      beginLog(partial, hub, end)
      fsyncSync(made)
      return { through: end - 1, aside: swap(folder, target, partial, occupied) }
    } finally {
      closeSync(made)
    }
  } catch (error) {
    removeDatabase(partial)
    if (error instanceof UnusableFile) throw error
    throw new UnusableFile(`nothing was restored: ${(error as Error).message}`)
  } finally {
    lock.close()
  }
}

/*
 * Whenever this is cut off, the folder holds the old database whole or the new one. The old one is made a single file and
 * gets a second name; then one rename puts the new one in its place. Between the steps the folder is synced, as names may
 * reach the disk in any order.
 */
function swap(folder: string, target: string, partial: string, occupied: boolean): string | null {
  const aside = occupied ? putAside(target) : null
  try {
    syncFolder(folder)
    // The WAL of another database would be played into this one. Only one that cannot be read still has it here.
    for (const end of besides) rmSync(target + end, { force: true })
    syncFolder(folder)
    renameSync(partial, target)
  } catch (error) {
    if (aside !== null) {
      if (existsSync(`${aside}-wal`)) renameSync(`${aside}-wal`, `${target}-wal`)
      rmSync(aside)
    }
    throw error
  }
  syncFolder(folder)
  return aside
}

const besides = ['-wal', '-shm', '-journal']

/** A second name for the database, and for the WAL of one that is too damaged to be made a single file. */
function putAside(target: string): string {
  const aside = `${target}.before-restore-${new Date().toISOString().replace(/[-:]|\.\d+/g, '')}`
  if (existsSync(aside)) throw new UnusableFile(`${aside} is there already: try again in a second`)
  endWal(target)
  for (const end of ['', '-wal']) if (existsSync(target + end)) linkOrCopy(target + end, aside + end)
  return aside
}

/** Brings what is in the WAL into the file itself. */
function endWal(target: string): void {
  let db: Database.Database | null = null
  try {
    db = openDatabase(target)
    if (!checkpoint(db, 'TRUNCATE'))
      throw new UnusableFile(`another process reads ${target}: try again when it has ended`)
  } catch (error) {
    if (!isUnsound(error)) throw error
  } finally {
    db?.close()
  }
}

function linkOrCopy(from: string, to: string): void {
  try {
    linkSync(from, to)
  } catch {
    // Not every file system gives a file two names.
    copyFileSync(from, to, constants.COPYFILE_EXCL)
    const copy = openSync(to, 'r+')
    fsyncSync(copy)
    closeSync(copy)
  }
}

/**
 * The log goes on from here in another way than it did, with other readings at the same offsets. It gets a name of its
 * own, and remembers how far it is the same: a cursor from beyond that would skip what comes now. Consumers begin an
 * epoch, as after a seek: workers and receivers of webhooks may have taken other readings under the identifiers to come.
 */
function beginLog(path: string, former: string, end: number): void {
  // A file of an older version is brought to this one.
  const db = openForWriting(path, 'fsync')
  try {
    db.exec('PRAGMA journal_mode = DELETE')
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
