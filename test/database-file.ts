import { join } from 'node:path'
import Database from 'better-sqlite3'
import { expect } from 'vitest'

/** How many readings the log in a folder holds, whose database is sound. */
export function countIn(folder: string): number {
  const db = new Database(join(folder, 'hub.db'), { fileMustExist: true })
  try {
    expect(db.pragma('integrity_check', { simple: true })).toBe('ok')
    return db.prepare<[], number>('SELECT coalesce(sum(count), 0) FROM log').pluck().get() ?? 0
  } finally {
    db.close()
  }
}
