import { randomBytes } from 'node:crypto'
import {
  closeSync,
  existsSync,
  fdatasyncSync,
  fsyncSync,
  openSync,
  readdirSync,
  realpathSync,
  rmSync,
  statfsSync,
  statSync,
} from 'node:fs'
import { rename } from 'node:fs/promises'
import { constants, setPriority } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { openDatabase } from './database.ts'
import { openForReading, UnusableFile } from './schema.ts'
import { checkDatabase, refuseDamage } from './soundness.ts'

/*
 * A copy of the pages as one read transaction sees them, so commits of the hub neither wait for it nor show in it. Small
 * steps, each synced before the next: what a sync of a commit has to wait for is then one step at most. Acknowledgements
 * at 5,000/s while a database of 0.3 GB was copied again and again, on two cores, p50 / p99 in milliseconds:
 *
 *   nothing copied                      0.9 / 9
 *   VACUUM INTO                         1.6 / 150    9 copies in 10 s
 *   one step, synced at its end         2.0 / 164    9 copies
 *   steps of 1000 pages, each synced    2.0 / 40     8 copies
 *   steps of 256, low priority          1.3 / 35     6 copies
 *
 * The WAL cannot begin anew while the snapshot is held: it grew from 4 to at most 18 MB, and shrinks afterwards.
 */
const stepPages = 256
/** What a copy leaves free on the disk of a hub, whose WAL grows meanwhile. */
const spareBytes = 64 * 1024 * 1024
/** Nobody copies for so long: what an older unfinished copy left is rubbish. */
const staleMillis = 24 * 3_600_000

export interface BackupOptions {
  /** Folder of the database; the hub may be running there. */
  folder: string
  file: string
  /** Replace the file if it exists. */
  force: boolean
  /** Ends the copying; nothing is left behind. */
  signal: AbortSignal
}

export interface BackupResult {
  bytes: number
  /** Readings of the log that are in it, by the offset of the last one. */
  through: number
}

/** Copies the database of a folder into one file, all at one moment. Throws `UnusableFile` with what to do. */
export async function backUp({ folder, file, force, signal }: BackupOptions): Promise<BackupResult> {
  const source = join(folder, 'hub.db')
  if (!existsSync(source)) throw new UnusableFile(`there is no database in ${folder}: say where it is with --data`)
  refuseOwn(file, folder)
  if (!force) refuseExisting(file)
  // Its own name, as another one may be made at the same time.
  const partial = `${file}${partialMark}${randomBytes(5).toString('hex')}`
  try {
    removeStale(file)
    const made = openEmpty(partial)
    try {
      await copyPages(source, partial, made, signal)
      const { end } = checkDatabase(partial, source)
      signal.throwIfAborted()
      fsyncSync(made)
      const { size } = statSync(partial)
      // Another one may have come meanwhile.
      if (!force) refuseExisting(file)
      await rename(partial, file)
      syncFolder(dirname(resolve(file)))
      return { bytes: size, through: end - 1 }
    } finally {
      closeSync(made)
    }
  } catch (error) {
    removeDatabase(partial)
    if (error instanceof UnusableFile) throw error
    throw new UnusableFile(`no backup was made: ${(error as Error).message}`)
  }
}

const partialMark = '.partial-'

/** What was left by copies that were killed. */
function removeStale(file: string): void {
  const folder = dirname(resolve(file))
  for (const name of readdirSync(folder)) {
    if (!name.startsWith(basename(file) + partialMark)) continue
    const path = join(folder, name)
    if (Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now()) > staleMillis)
      removeDatabase(path)
  }
}

/**
 * Copies a database as it is at one moment into an empty file, `made`, also while a hub writes to it. Throws
 * `UnusableFile` where it is damaged or there is no room.
 */
export async function copyPages(source: string, partial: string, made: number, signal: AbortSignal): Promise<void> {
  // What devices wait for goes first.
  setPriority(constants.priority.PRIORITY_LOW)
  try {
    await copySnapshot(source, partial, made, signal)
    // One file by itself, whoever opens it, without a WAL beside it.
    const copy = openDatabase(partial)
    copy.exec('PRAGMA journal_mode = DELETE')
    copy.close()
  } catch (error) {
    throw refuseDamage(error, source)
  }
}

async function copySnapshot(source: string, partial: string, made: number, signal: AbortSignal): Promise<void> {
  const db = openForReading(source)
  try {
    // From the first read on the snapshot stays, however many steps are made.
    db.exec('BEGIN')
    const size = db
      .prepare<[], number>('SELECT page_count * page_size FROM pragma_page_count, pragma_page_size')
      .pluck()
    refuseFull(source, partial, size.get() as number)
    await db.backup(partial, {
      progress() {
        signal.throwIfAborted()
        fdatasyncSync(made)
        return stepPages
      },
    })
  } finally {
    db.close()
  }
}

/** On a full disk a hub cannot commit: a copy must not be what fills it. */
function refuseFull(source: string, partial: string, bytes: number): void {
  const folder = dirname(resolve(partial))
  const { bavail, bsize } = statfsSync(folder)
  const needed = bytes + (statSync(source).dev === statSync(folder).dev ? spareBytes : 0)
  if (bavail * bsize >= needed) return
  const megabytes = (size: number) => `${Math.ceil(size / 1e6)} MB`
  throw new UnusableFile(
    `${folder} has ${megabytes(bavail * bsize)} free, and this takes ${megabytes(needed)}: make room, or choose another place`,
  )
}

/** What the hub and SQLite have in the folder. */
const own = ['hub.db', 'hub.db-wal', 'hub.db-shm', 'hub.db-journal', 'hub.db.partial', 'hub.lock']

/** To replace a file that the hub has open would be to lose all that it stores from then on. */
function refuseOwn(file: string, folder: string): void {
  const parent = dirname(resolve(file))
  const inFolder = existsSync(parent) && realpathSync(parent) === realpathSync(folder)
  const stat = (path: string) => statSync(path, { throwIfNoEntry: false })
  const there = stat(file)
  for (const name of own) {
    const one = there && stat(join(folder, name))
    if ((inFolder && basename(file) === name) || (one && one.dev === there.dev && one.ino === there.ino)) {
      throw new UnusableFile(`${file} belongs to the hub itself: choose another name`)
    }
  }
}

/** For its owner alone from the first byte: it holds the secrets of webhooks. */
export function openEmpty(path: string): number {
  removeDatabase(path)
  return openSync(path, 'wx+', 0o600)
}

function refuseExisting(file: string): void {
  if (existsSync(file))
    throw new UnusableFile(`${file} is there already: choose another name, or replace it with --force`)
}

/** The file with all that SQLite keeps beside it. */
export function removeDatabase(path: string): void {
  for (const end of ['', '-journal', '-wal', '-shm']) rmSync(path + end, { force: true })
}

/** A name is on disk when its folder is. */
export function syncFolder(folder: string): void {
  const opened = openSync(folder, 'r')
  try {
    fsyncSync(opened)
  } finally {
    closeSync(opened)
  }
}
