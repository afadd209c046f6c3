import type Database from 'better-sqlite3'
import type { EarlierLog } from '../store.ts'

/** The logs that this one was until a backup of them was restored. */
export function earlierLogs(db: Database.Database): EarlierLog[] {
  const text = db.prepare<[], string>("SELECT value FROM hub WHERE key = 'earlier'").pluck().get()
  return text === undefined ? [] : (JSON.parse(text) as EarlierLog[])
}
