import { crc32 } from 'node:zlib'
import type Database from 'better-sqlite3'
import type { Millis } from '../../../devices/reading.ts'
import type { Batch, Offset } from '../store.ts'

/** The log, a row a commit, and the dictionary that its records use. */
export function createLogTable(db: Database.Database) {
  const begin = db.prepare('BEGIN IMMEDIATE')
  const commit = db.prepare('COMMIT')
  const insertDevice = db.prepare('INSERT INTO devices (id, name, first_seen, last_seen) VALUES (?, ?, ?, ?)')
  const insertMetric = db.prepare('INSERT INTO metrics (id, name) VALUES (?, ?)')
  const insert = db.prepare('INSERT INTO log ("offset", count, received, data, crc) VALUES (?, ?, ?, ?, ?)')
  const oldest = db.prepare<[], Offset>('SELECT coalesce(min("offset"), 1) FROM log').pluck()

  return {
    begin: () => void begin.run(),
    commit: () => void commit.run(),
    name({ newDevices, newMetrics, received }: Batch): void {
      for (const [id, name] of newDevices) insertDevice.run(id, name, received, received)
      for (const [id, name] of newMetrics) insertMetric.run(id, name)
    },
    append(first: Offset, count: number, received: Millis, records: Uint8Array): void {
      insert.run(first, count, received, records, crc32(records))
    },
    oldest: (): Offset => oldest.get() ?? 1,
  }
}
