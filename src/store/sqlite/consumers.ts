import type Database from 'better-sqlite3'
import type { ConsumerChange, DeadLetter, KeptConsumer, Offset } from '../store.ts'

/** Consumers as rows: their settings, where they stand, and the readings that they gave up. */
export function createConsumerTable(db: Database.Database) {
  const put = db.prepare('INSERT OR REPLACE INTO consumers (name, settings, state) VALUES (?, ?, ?)')
  const remove = db.prepare('DELETE FROM consumers WHERE name = ?')
  const bury = db.prepare(
    'INSERT OR REPLACE INTO dead_letters (consumer, "offset", at, attempts, reason, reading) VALUES (?, ?, ?, ?, ?, ?)',
  )
  const raise = db.prepare('DELETE FROM dead_letters WHERE consumer = ? AND "offset" = ?')
  const raiseAll = db.prepare('DELETE FROM dead_letters WHERE consumer = ?')
  const all = db.prepare<[], Omit<KeptConsumer, 'deadLetters'>>('SELECT name, settings, state FROM consumers')
  const offsets = db.prepare<[string], Offset>('SELECT "offset" FROM dead_letters WHERE consumer = ?').pluck()
  const page = db.prepare<[string, Offset, number], DeadLetter>(
    `SELECT "offset", at, attempts, reason, reading FROM dead_letters
     WHERE consumer = ? AND "offset" >= ? ORDER BY "offset" LIMIT ?`,
  )

  return {
    /** Inside the transaction of a commit. */
    write(changes: readonly ConsumerChange[]): void {
      for (const { name, settings, state, buried, raised } of changes) {
        if (settings === null) {
          remove.run(name)
          raiseAll.run(name)
          continue
        }
        put.run(name, settings, state)
        for (const { offset, at, attempts, reason, reading } of buried) {
          bury.run(name, offset, at, attempts, reason, reading)
        }
        for (const offset of raised) raise.run(name, offset)
      }
    },
    all: (): KeptConsumer[] => all.all().map((row) => ({ ...row, deadLetters: offsets.all(row.name) })),
    deadLetters: (consumer: string, after: Offset, limit: number): DeadLetter[] => page.all(consumer, after, limit),
  }
}
