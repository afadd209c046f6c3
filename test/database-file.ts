import { join } from 'node:path'
import { expect } from 'vitest'
import { openDatabase } from '../src/store/sqlite/database.ts'

/** How many readings the log in a folder holds, whose database is sound. */
export function countIn(folder: string): number {
  const db = openDatabase(join(folder, 'hub.db'), { fileMustExist: true })
  try {
    expect(db.prepare('PRAGMA integrity_check').pluck().get()).toBe('ok')
    return db.prepare<[], number>('SELECT coalesce(sum(count), 0) FROM log').pluck().get() ?? 0
  } finally {
    db.close()
  }
}
