import type Database from 'better-sqlite3'
import { decodeBlock, readDirectory } from '../block.ts'
import { lowerBound, type Rows } from '../columns.ts'
import type { RecordReader } from '../record.ts'
import { rowEquals } from './head.ts'

/** Looks for a late reading in the blocks of its device. */
export interface SealedSearch {
  holds(device: number, record: RecordReader): boolean
  /** Blocks that were merged or forgotten leave their number free for another one. */
  forget(): void
}

interface BlockRow {
  id: number
  directory: Buffer
  data: Buffer
}

// A file that is sent twice asks for the same few blocks again and again.
const maxOpened = 32

export function createSealedSearch(db: Database.Database): SealedSearch {
  const overlapping = db
    .prepare<[number, number, number], number>(
      'SELECT id FROM blocks WHERE device = ? AND last_ts >= ? AND first_ts <= ?',
    )
    .pluck()
  const content = db.prepare<[number], BlockRow>('SELECT id, directory, data FROM blocks WHERE id = ?')
  const opened = new Map<number, Rows>()

  function open(id: number): Rows {
    const known = opened.get(id)
    if (known) return known
    const block = content.get(id) as BlockRow
    const rows = decodeBlock(readDirectory(block.directory), block.data)
    const oldest = opened.keys().next()
    if (opened.size >= maxOpened && !oldest.done) opened.delete(oldest.value)
    opened.set(id, rows)
    return rows
  }

  return {
    holds(device, record) {
      for (const id of overlapping.all(device, record.ts, record.ts)) {
        const { times, columns } = open(id)
        for (let row = lowerBound(times, record.ts); times[row] === record.ts; row++) {
          if (rowEquals(row, record, columns)) return true
        }
      }
      return false
    },
    forget() {
      opened.clear()
    },
  }
}
