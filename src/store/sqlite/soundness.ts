import type Database from 'better-sqlite3'
import { decodeBlock, readDirectory } from '../block.ts'
import { isDamage } from '../damage.ts'
import { openDatabase } from './database.ts'
import { checkCommit, commitsFrom } from './log-table.ts'
import { newestVersion, UnusableFile, versionOf } from './schema.ts'

export interface Checked {
  hub: string
  /** One past the last reading of the log. */
  end: number
}

/**
 * Reads a whole database that nobody else has open. Throws `UnusableFile`, in which it is called `name`, when it is
 * damaged, newer, or none of ours.
 */
export function checkDatabase(path: string, name: string): Checked {
  let db: Database.Database | null = null
  try {
    db = openDatabase(path, { readonly: true, fileMustExist: true })
    const version = versionOf(db)
    const hub = hubOf(db)
    if (version < 1 || hub === null) throw new UnusableFile(`${name} is no database of telemetry-hub`)
    if (version > newestVersion) {
      throw new UnusableFile(
        `${name} was written by a newer telemetry-hub (file version ${version}, this program knows ${newestVersion}): use that version`,
      )
    }
    const found = db.prepare<[], string>('PRAGMA integrity_check(1)').pluck().get()
    if (found !== 'ok') throw new UnusableFile(damaged(name, found ?? 'no answer'))
    checkContents(db)
    const end = db.prepare<[], number>('SELECT "offset" + count FROM log ORDER BY "offset" DESC LIMIT 1').pluck().get()
    return { hub, end: end ?? 1 }
  } catch (error) {
    const told = refuseDamage(error, name)
    if (told instanceof UnusableFile) throw told
    throw new UnusableFile(`cannot read ${name} (${told.message}): correct its name or its permissions`)
  } finally {
    db?.close()
  }
}

/** The error, or where it says that a database is damaged, what to do about that. */
export function refuseDamage(error: unknown, name: string): Error {
  return isUnsound(error) ? new UnusableFile(damaged(name, (error as Error).message)) : (error as Error)
}

/** Whether an error says that a file is no database, or a damaged one. */
export function isUnsound(error: unknown): boolean {
  return (error as Error & { code?: string }).code === 'SQLITE_NOTADB' || isDamage(error)
}

interface BlockRow {
  id: number
  directory: Buffer
  data: Buffer
}

/** What SQLite cannot see: whether the blobs are what was written. Throws `Damaged`. */
function checkContents(db: Database.Database): void {
  // A file of before there were checksums.
  if (!db.prepare("SELECT 1 FROM pragma_table_info('log') WHERE name = 'crc'").get()) return
  for (const row of commitsFrom(db, 0)) checkCommit(row)
  const next = db.prepare<[number], BlockRow>('SELECT id, directory, data FROM blocks WHERE id > ? ORDER BY id LIMIT 1')
  for (let block = next.get(0); block; block = next.get(block.id))
    decodeBlock(readDirectory(block.directory), block.data)
}

function hubOf(db: Database.Database): string | null {
  const known = db.prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'hub'").get()
  return known ? (db.prepare<[], string>("SELECT value FROM hub WHERE key = 'id'").pluck().get() ?? null) : null
}

function damaged(name: string, reason: string): string {
  return `${name} is damaged (${reason.replaceAll('\n', ' ')}): restore a sound backup`
}
