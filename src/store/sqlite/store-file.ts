import { closeSync, existsSync, fdatasyncSync, openSync } from 'node:fs'
import type Database from 'better-sqlite3'
import { createConsumerTable } from './consumers.ts'
import { createCredentialTable } from './credentials.ts'
import { checkpoint } from './database.ts'
import { createDictionaryTable } from './dictionary-table.ts'
import { createHandshakes } from './handshakes.ts'
import { loadHeads } from './heads.ts'
import { createLogTable } from './log-table.ts'
import { createNoteTable } from './notes.ts'
import { createQuarantine } from './quarantine.ts'
import { createRetention } from './retention.ts'
import { type Durability, openForWriting, setSynchronous } from './schema.ts'
import { createSealing } from './sealing.ts'
import { createStoredBlocks } from './stored-blocks.ts'
import { createSummaries } from './summaries.ts'

/*
 * A sync that fails is no sync: the system may take pages for clean that never came to disk, and whoever opens the file
 * anew finds the commit in the write-ahead log as if it had succeeded. So the connection stays open, its rollback takes
 * the failed commit out of sight, and before the next one the whole log is brought into the database, with syncs of
 * both. A start does the same, with what a former run may have left.
 */

/** The file of the one writer, with all that is in memory because of it. */
export interface StoreFile {
  readonly db: Database.Database
  /** Throws while it cannot be read: then nobody sees what a failed commit left in memory. */
  readonly contents: Contents
  begin(): void
  commit(): void
  /** Undoes what is not committed, and makes all memory anew. Throws when the file cannot be read. */
  reload(): void
  /** Brings all that is committed to disk, once and for all. Throws when that cannot be done now. */
  settle(): void
  close(): void
}

type Contents = ReturnType<typeof readContents>

/** `onDamage` hears what of the file cannot be read, and does not keep it from being written. */
export function openStoreFile(path: string, durability: Durability, onDamage: (what: string) => void): StoreFile {
  const db = openForWriting(path, durability)
  let contents: Contents | null = null
  try {
    settleFormerRun(db, `${path}-wal`)
    contents = readContents(db, onDamage)
  } catch (error) {
    db.close()
    throw error
  }

  const begin = db.prepare('BEGIN IMMEDIATE')
  const commit = db.prepare('COMMIT')
  return {
    db,
    begin: () => void begin.run(),
    commit: () => void commit.run(),
    get contents() {
      if (!contents) throw new Error('the database cannot be read')
      return contents
    },
    reload() {
      contents = null
      if (db.inTransaction) db.exec('ROLLBACK')
      setSynchronous(db, durability)
      contents = readContents(db, onDamage)
    },
    settle() {
      if (checkpoint(db, 'TRUNCATE')) return
      throw new Error('somebody reads an older state of the database, such as a backup, and has to end first')
    },
    close: () => void db.close(),
  }
}

// Whoever reads an older state keeps it from being brought over. Then a sync of the log must do: it fails to help only if
// the former run ended after a sync that failed, and with a backup under way.
function settleFormerRun(db: Database.Database, log: string): void {
  if (checkpoint(db, 'FULL') || !existsSync(log)) return
  const opened = openSync(log, 'r+')
  try {
    fdatasyncSync(opened)
  } finally {
    closeSync(opened)
  }
}

function readContents(db: Database.Database, onDamage: (what: string) => void) {
  const blocks = createStoredBlocks(db, onDamage)
  const dictionary = createDictionaryTable(db)
  const heads = loadHeads(db, dictionary, blocks)
  return {
    blocks,
    dictionary,
    heads,
    summaries: createSummaries(heads),
    sealing: createSealing(db, heads, dictionary, blocks),
    log: createLogTable(db),
    handshakes: createHandshakes(db),
    consumers: createConsumerTable(db),
    credentials: createCredentialTable(db),
    quarantine: createQuarantine(db),
    notes: createNoteTable(db),
    retention: createRetention(db, heads),
  }
}
