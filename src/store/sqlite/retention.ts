import type Database from 'better-sqlite3'
import type { Millis } from '../../../devices/reading.ts'
import type { Head } from './head.ts'
import type { Heads } from './heads.ts'

export interface Forgetting {
  /** Log readings that arrived earlier are forgotten. */
  logBefore: Millis
  /** The log keeps about so many bytes, the newest ones. */
  logBytes: number
  /** Blocks whose last reading is earlier are forgotten. */
  historyBefore: Millis
}

/** Rows that one transaction deletes; a commit waits for one of them at most. */
const sliceRows = 200
const slicePages = 1000

/**
 * Forgets what is beyond the limits, a little at a time. The size of the log is counted, not measured: how much it was up
 * to which place is kept with every slice, and a start counts what came after.
 */
export function createRetention(db: Database.Database, heads: Heads) {
  const oldestRows = db.prepare<[number], { offset: number; count: number; received: number; size: number }>(
    'SELECT "offset", count, received, length(data) AS size FROM log ORDER BY "offset" LIMIT ?',
  )
  const deleteLog = db.prepare('DELETE FROM log WHERE "offset" < ?')
  const deleteBlocks = db.prepare('DELETE FROM blocks WHERE id IN (SELECT id FROM blocks WHERE last_ts < ? LIMIT ?)')
  const kept = db.prepare<[string], number>('SELECT value FROM hub WHERE key = ?').pluck()
  const keep = db.prepare('INSERT OR REPLACE INTO hub (key, value) VALUES (?, ?)')
  const sizeFrom = db.prepare<[number], number>('SELECT total(length(data)) FROM log WHERE "offset" >= ?').pluck()
  const counted = kept.get('log_counted')
  let logBytes = (counted === undefined ? 0 : (kept.get('log_bytes') ?? 0)) + (sizeFrom.get(counted ?? 0) ?? 0)

  /** A head that keeps something from being forgotten: it lives from the log, and history has it where no block is. */
  function dueHead({ logBefore, logBytes: maxBytes, historyBefore }: Forgetting): Head | undefined {
    const oldest = heads.open.values().next().value
    const [first] = oldestRows.all(1)
    if (oldest && first && first.offset + first.count > oldest.firstOffset) {
      if (first.received < logBefore || logBytes > maxBytes) return oldest
    }
    for (const head of heads.open.values()) if (head.maxTs < historyBefore) return head
    return undefined
  }

  const slice = db.transaction((limits: Forgetting): boolean => {
    const logRows = forgetLog(limits)
    const blocks = limits.historyBefore > 0 ? deleteBlocks.run(limits.historyBefore, sliceRows).changes : 0
    if (blocks > 0) heads.sealed.forget()
    keep.run('log_bytes', logBytes)
    keep.run('log_counted', heads.end)
    return logRows + blocks > 0
  })

  function forgetLog(limits: Forgetting): number {
    // Heads that are not sealed live from the log, and its last row says where the next reading goes.
    const keepFrom = heads.open.values().next().value?.firstOffset ?? heads.end
    let below = 0
    let rows = 0
    for (const { offset, count, received, size } of oldestRows.all(sliceRows)) {
      const end = offset + count
      if (end > keepFrom || end >= heads.end || (received >= limits.logBefore && logBytes <= limits.logBytes)) break
      logBytes = Math.max(0, logBytes - size)
      below = end
      rows++
    }
    if (rows > 0) deleteLog.run(below)
    return rows
  }

  return {
    appended(bytes: number): void {
      logBytes += bytes
    },
    dueHead,
    /** False: nothing is left to forget. */
    forgetSlice(limits: Forgetting): boolean {
      const more = slice(limits)
      db.exec(`PRAGMA incremental_vacuum(${slicePages})`)
      return more
    },
    get logBytes() {
      return logBytes
    },
  }
}
