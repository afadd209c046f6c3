import type Database from 'better-sqlite3'
import type { Note } from '../../../devices/sink.ts'

/** What others want to know again after a restart, by keys of theirs. */
export function createNoteTable(db: Database.Database) {
  const put = db.prepare(
    'INSERT INTO notes (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value',
  )
  const drop = db.prepare('DELETE FROM notes WHERE key = ?')
  const all = db.prepare<[], [string, Uint8Array]>('SELECT key, value FROM notes').raw()

  return {
    /** Inside the transaction of a commit. */
    write(notes: readonly Note[]): void {
      for (const [key, value] of notes) {
        if (value === null) drop.run(key)
        else put.run(key, value)
      }
    },
    all: (): [key: string, value: Uint8Array][] => all.all(),
  }
}
