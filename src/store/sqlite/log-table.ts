import type Database from 'better-sqlite3'
import type { Millis } from '../../../devices/reading.ts'
import { Damaged, sumOfRow } from '../damage.ts'
import type { Offset } from '../store.ts'

/** A row of the log: the readings of one commit. */
export interface CommitRow {
  offset: Offset
  count: number
  received: Millis
  data: Buffer
  /** `null` where it was written before there were any. */
  crc: number | null
}

/** To be selected for a `CommitRow`. */
const commitColumns = '"offset", count, received, data, crc'

/** Throws `Damaged` unless the row is what was written. */
export function checkCommit({ offset, count, received, data, crc }: CommitRow): void {
  if (crc === null || crc === sumOfRow([offset, count, received], data)) return
  throw new Damaged(`the checksum of the log at ${offset} is wrong`)
}

/** The commits of the log in order, beginning with the last one that is not after an offset: it may reach past it. */
export function* commitsFrom(db: Database.Database, from: Offset): Generator<CommitRow> {
  const next = db.prepare<[Offset], CommitRow>(
    `SELECT ${commitColumns} FROM log WHERE "offset" >= ? ORDER BY "offset" LIMIT 1`,
  )
  const before = db.prepare<[Offset], Offset>('SELECT coalesce(max("offset"), 0) FROM log WHERE "offset" <= ?').pluck()
  for (let row = next.get(before.get(from) ?? 0); row; row = next.get(row.offset + 1)) yield row
}

/** The log, a row a commit. */
export function createLogTable(db: Database.Database) {
  const insert = db.prepare(`INSERT INTO log (${commitColumns}) VALUES (?, ?, ?, ?, ?)`)
  const oldest = db.prepare<[], Offset>('SELECT coalesce(min("offset"), 1) FROM log').pluck()

  return {
    append(first: Offset, count: number, received: Millis, records: Uint8Array): void {
      insert.run(first, count, received, records, sumOfRow([first, count, received], records))
    },
    oldest: (): Offset => oldest.get() ?? 1,
  }
}
