import { chmodSync } from 'node:fs'
import type Database from 'better-sqlite3'
import { openDatabase } from './database.ts'

/** The database is newer than this program, or is none of ours. */
export class UnusableFile extends Error {
  /** Another process uses it. */
  readonly busy: boolean

  constructor(message: string, busy = false) {
    super(message)
    this.busy = busy
  }
}

/*
 * One step per version of the file; `user_version` counts those that were taken. A step is never edited after a
 * release, only followed by another one.
 */
const migrations = [
  `
  CREATE TABLE hub (key TEXT PRIMARY KEY, value ANY) STRICT;

  -- The dictionary: records and blocks name devices and metrics by number.
  CREATE TABLE devices (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    first_seen INTEGER NOT NULL,
    -- The rest is as of the last sealing; the log brings it up to date at the start.
    last_seen INTEGER NOT NULL,
    max_ts INTEGER,
    last_stamp INTEGER NOT NULL DEFAULT 0,
    sealed_through INTEGER NOT NULL DEFAULT 0,
    latest TEXT NOT NULL DEFAULT '[]'
  ) STRICT;
  CREATE TABLE metrics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;

  -- The log: one row a commit, keyed by the offset of its first reading.
  CREATE TABLE log ("offset" INTEGER PRIMARY KEY, count INTEGER NOT NULL, received INTEGER NOT NULL, data BLOB NOT NULL) STRICT;

  -- Sealed history. A rowid table: in a WITHOUT ROWID table blobs take more than twice the space.
  CREATE TABLE blocks (
    id INTEGER PRIMARY KEY,
    device INTEGER NOT NULL,
    first_ts INTEGER NOT NULL,
    last_ts INTEGER NOT NULL,
    first_offset INTEGER NOT NULL,
    last_offset INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    tier INTEGER NOT NULL,
    directory BLOB NOT NULL,
    data BLOB NOT NULL
  ) STRICT;
  CREATE INDEX blocks_by_time ON blocks (device, last_ts, first_ts);
  CREATE INDEX blocks_by_offset ON blocks (device, first_offset);
  CREATE INDEX blocks_by_age ON blocks (last_ts);

  CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    received INTEGER NOT NULL,
    origin TEXT NOT NULL,
    device TEXT NOT NULL,
    reason TEXT NOT NULL,
    payload BLOB NOT NULL
  ) STRICT;

  -- Inbound QoS 2 exchanges, as a journal of what began and ended in each commit.
  CREATE TABLE handshakes (id INTEGER PRIMARY KEY, journal TEXT NOT NULL) STRICT;
  `,
  `
  CREATE TABLE consumers (name TEXT PRIMARY KEY, settings TEXT NOT NULL, state TEXT NOT NULL) STRICT;
  CREATE TABLE dead_letters (
    consumer TEXT NOT NULL,
    "offset" INTEGER NOT NULL,
    at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    reason TEXT NOT NULL,
    reading TEXT NOT NULL,
    PRIMARY KEY (consumer, "offset")
  ) STRICT;
  `,
  `
  CREATE TABLE credentials (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    rules TEXT NOT NULL,
    hash TEXT,
    created INTEGER NOT NULL,
    expires INTEGER,
    last_used INTEGER
  ) STRICT;
  CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL
  ) STRICT;
  `,
  `
  CREATE TABLE notes (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value BLOB NOT NULL) STRICT;
  `,
  `
  -- Of the data; NULL in rows that are older than this column.
  ALTER TABLE log ADD COLUMN crc INTEGER;
  `,
  `
  -- Of the whole row, in the log too. NULL in rows that are older.
  ALTER TABLE devices ADD COLUMN crc INTEGER;
  UPDATE log SET crc = NULL;
  `,
]

/** Of the file, as this program writes it. */
export const newestVersion = migrations.length

export type Durability = 'fsync' | 'os'

/** Opens the file for the one writer, brings it to the current version and sets what durability asks for. */
export function openForWriting(path: string, durability: Durability): Database.Database {
  const db = openDatabase(path)
  try {
    // The files beside it take its mode.
    chmodSync(path, 0o600)
    db.exec('PRAGMA busy_timeout = 5000')
    checkVersion(db, path)
    // Freed pages can be given back to the file system only if the file was begun in this mode.
    db.exec('PRAGMA auto_vacuum = INCREMENTAL')
    db.exec('PRAGMA journal_mode = WAL')
    setSynchronous(db, durability)
    // Larger steps were measured: 1000 pages stall a commit for at most 3 ms, 10,000 for 7 to 13 ms.
    db.exec('PRAGMA wal_autocheckpoint = 1000')
    db.exec('PRAGMA journal_size_limit = 67108864')
    db.exec('PRAGMA cache_size = -16384')
    migrate(db)
    return db
  } catch (error) {
    db.close()
    throw error
  }
}

/** In WAL mode FULL syncs at every commit, NORMAL only at checkpoints: a power cut may take the last commits. */
export function setSynchronous(db: Database.Database, durability: Durability): void {
  db.exec(`PRAGMA synchronous = ${durability === 'fsync' ? 'FULL' : 'NORMAL'}`)
}

export function openForReading(path: string): Database.Database {
  const db = openDatabase(path, { readonly: true, fileMustExist: true })
  db.exec('PRAGMA busy_timeout = 5000')
  db.exec('PRAGMA cache_size = -8192')
  return db
}

/** How many of the migrations it has taken. */
export function versionOf(db: Database.Database): number {
  return db.prepare<[], number>('PRAGMA user_version').pluck().get() as number
}

function checkVersion(db: Database.Database, path: string): void {
  const version = versionOf(db)
  if (version > newestVersion) {
    throw new UnusableFile(
      `${path} was written by a newer telemetry-hub (file version ${version}, this program knows ${newestVersion}): use that version, or another --data folder`,
    )
  }
}

/** For who comes beside a hub that runs: the file is of this very version. */
export function checkCurrent(db: Database.Database, path: string): void {
  checkVersion(db, path)
  if (versionOf(db) < migrations.length) {
    throw new UnusableFile(`the hub that runs on ${path} is older than this program: stop it first`)
  }
}

function migrate(db: Database.Database): void {
  const version = versionOf(db)
  for (const [index, step] of migrations.entries()) {
    if (index < version) continue
    db.transaction(() => {
      db.exec(step)
      db.exec(`PRAGMA user_version = ${index + 1}`)
    })()
  }
}
