import type Database from 'better-sqlite3'
import { decodeBlock, decodeTimes, readDirectory } from '../block.ts'
import { type Column, lowerBound } from '../columns.ts'
import type { RecordReader } from '../record.ts'
import { rowEquals } from './head.ts'

/** Looks for a late reading in the blocks of its device. */
export interface SealedSearch {
  holds(device: number, record: RecordReader): boolean
  /** Blocks that were merged or forgotten leave their number free for another one. */
  forget(): void
}

/** Times in memory, all blocks together: 16 MB, which is the recent past of some thousand devices. */
const maxCachedTimes = 2_000_000
/** Blocks whose columns stay open: a file that is sent twice asks for the same few again and again. */
const maxOpened = 16

export function createSealedSearch(db: Database.Database): SealedSearch {
  const overlapping = db
    .prepare<[number, number, number], number>(
      'SELECT id FROM blocks WHERE device = ? AND last_ts >= ? AND first_ts <= ?',
    )
    .pluck()
  const content = db.prepare<[number], { directory: Buffer; data: Buffer }>(
    'SELECT directory, data FROM blocks WHERE id = ?',
  )
  // The times alone tell nearly always that a reading is new; a clock that once ran ahead makes all readings late.
  const times = new Map<number, Float64Array>()
  let cached = 0
  const opened = new Map<number, Column[]>()

  function timesOf(id: number): Float64Array {
    let found = times.get(id)
    if (found) {
      times.delete(id)
    } else {
      const { directory, data } = content.get(id) as { directory: Buffer; data: Buffer }
      found = decodeTimes(readDirectory(directory), data)
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
    for (; known[row] === record.ts; row++) if (rowEquals(row, record, columns)) return true
    return false
  }

  function columnsOf(id: number): Column[] {
    const known = opened.get(id)
    if (known) return known
    const { directory, data } = content.get(id) as { directory: Buffer; data: Buffer }
    const { columns } = decodeBlock(readDirectory(directory), data)
    const oldest = opened.keys().next()
    if (opened.size >= maxOpened && !oldest.done) opened.delete(oldest.value)
    opened.set(id, columns)
    return columns
  }

  return {
    holds: (device, record) => overlapping.all(device, record.ts, record.ts).some((id) => blockHolds(id, record)),
    forget() {
      times.clear()
      opened.clear()
      cached = 0
    },
  }
}
