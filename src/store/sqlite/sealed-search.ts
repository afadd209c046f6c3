import type Database from 'better-sqlite3'
import type { Millis } from '../../../devices/reading.ts'
import { type Column, lowerBound, valueAt } from '../columns.ts'
import type { RecordReader } from '../record.ts'
import { rowEquals } from './head.ts'
import type { StoredBlocks } from './stored-blocks.ts'

/** Looks for a late reading in the blocks of its device. */
export interface SealedSearch {
  holds(device: number, record: RecordReader): boolean
  /** A block was written, from one time to another. */
  added(device: number, firstTs: Millis, lastTs: Millis): void
  /** Blocks were merged or forgotten. */
  forget(): void
}

/** Times in memory, all blocks together: 16 MB, which is the recent past of some thousand devices. */
const maxCachedTimes = 2_000_000
/** Blocks whose columns stay open: a file that is sent twice asks for the same few again and again. */
const maxOpened = 16

export function createSealedSearch(db: Database.Database, blocks: StoredBlocks): SealedSearch {
  // Of the blocks that end after a time, those that begin before it: no further on than the longest of them reaches.
  const overlapping = db
    .prepare<[number, number, number, number], number>(
      'SELECT id FROM blocks WHERE device = ? AND last_ts BETWEEN ? AND ? AND first_ts <= ?',
    )
    .pluck()
  const longest = db
    .prepare<[number], number>('SELECT coalesce(max(last_ts - first_ts), 0) FROM blocks WHERE device = ?')
    .pluck()
  const spans = new Map<number, Millis>()
  // The times alone tell nearly always that a reading is new; a clock that once ran ahead makes all readings late.
  const times = new Map<number, Float64Array>()
  let cached = 0
  const opened = new Map<number, Column[]>()

  function timesOf(id: number): Float64Array {
    let found = times.get(id)
    if (found) {
      times.delete(id)
    } else {
      found = blocks.times(id) ?? new Float64Array(0)
      cached += found.length
    }
    // The last one in is the last one out.
    times.set(id, found)
    for (const [oldest, list] of times) {
      if (cached <= maxCachedTimes || oldest === id) break
      times.delete(oldest)
      cached -= list.length
    }
    return found
  }

  function blockHolds(id: number, record: RecordReader): boolean {
    const known = timesOf(id)
    let row = lowerBound(known, record.ts)
    if (known[row] !== record.ts) return false
    const columns = columnsOf(id)
    for (; known[row] === record.ts; row++) if (rowEquals(row, record, columns, inColumn)) return true
    return false
  }

  function columnsOf(id: number): Column[] {
    const known = opened.get(id)
    if (known) return known
    const columns = blocks.rows(id)?.columns ?? []
    const oldest = opened.keys().next()
    if (opened.size >= maxOpened && !oldest.done) opened.delete(oldest.value)
    opened.set(id, columns)
    return columns
  }

  function spanOf(device: number): Millis {
    let span = spans.get(device)
    if (span === undefined) {
      span = longest.get(device) ?? 0
      spans.set(device, span)
    }
    return span
  }

  return {
    holds(device, record) {
      const { ts } = record
      return overlapping.all(device, ts, ts + spanOf(device), ts).some((id) => blockHolds(id, record))
    },
    added(device, firstTs, lastTs) {
      const span = spans.get(device)
      if (span !== undefined) spans.set(device, Math.max(span, lastTs - firstTs))
    },
    forget() {
      times.clear()
      opened.clear()
      cached = 0
      blocks.forget()
    },
  }
}

const inColumn = ({ values }: Column, row: number) => valueAt(values, row)
