import type Database from 'better-sqlite3'
import { encodeBlock } from '../block.ts'
import { concatRows, type Rows, sortRows } from '../columns.ts'
import type { DictionaryTable, LatestRow } from './dictionary-table.ts'
import { clearHead, type Head, headRows } from './head.ts'
import type { Heads } from './heads.ts'
import type { StoredBlocks } from './stored-blocks.ts'

/** Rows of one head that make a block at once. Larger blocks gain little size and cost a query more to open. */
const maxHeadRows = 4096
const maxHeadBytes = 2 * 1024 * 1024
/** All heads together: a flood of long texts fills memory long before it is many readings. */
const maxBytes = 64 * 1024 * 1024
/**
 * Readings that the log may run ahead of the oldest unsealed one. This bounds both the memory of all heads together
 * and the part of the log that a start goes through: some 0.3 s at a million readings a second.
 */
const maxUnsealedSpan = 262_144
/** Heads that were sealed for their age make small blocks: as many of one tier become one of the next. */
const blocksPerTier = 8
const maxMergedRows = 8192
/** Long texts make a block large before it is long. */
const maxMergedBytes = 1024 * 1024

interface BlockRow {
  id: number
  tier: number
  rows: number
  first_offset: number
  last_offset: number
  size: number
}

export function isFull(head: Head): boolean {
  return head.rows >= maxHeadRows || head.bytes >= maxHeadBytes
}

export interface Sealing {
  /** The head that is due: full, or with readings that are too old. */
  next(): Head | undefined
  seal(head: Head): void
  /** A head that a batch has filled. */
  full(head: Head): void
  /** How far the log has run ahead of the oldest unsealed reading, or memory has filled, against what may be; above 1 is too far. */
  readonly backlog: number
}

/** Moves readings from heads to blocks. All of it can be lost and done again: the log still holds the readings. */
export function createSealing(
  db: Database.Database,
  heads: Heads,
  dictionary: DictionaryTable,
  blocks: StoredBlocks,
): Sealing {
  const insertBlock = db.prepare(
    `INSERT INTO blocks (device, first_ts, last_ts, first_offset, last_offset, rows, tier, directory, data)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
  )
  const setRecoverFrom = db.prepare("INSERT OR REPLACE INTO hub (key, value) VALUES ('recover_from', ?)")
  const newestBlocks = db.prepare<[number, number], BlockRow>(
    `SELECT id, tier, rows, first_offset, last_offset, length(data) AS size FROM blocks
     WHERE device = ? ORDER BY first_offset DESC LIMIT ?`,
  )
  const deleteBlock = db.prepare('DELETE FROM blocks WHERE id = ?')
  const fullHeads: Head[] = []
  // The end of the log when a head was last sealed for its age.
  let lastSealedAt = 0

  const writeHead = db.transaction((head: Head) => {
    const rows = headRows(head)
    const tier = rows.times.length >= maxMergedRows / blocksPerTier ? 1 : 0
    writeBlock(head.device, rows, head.firstOffset, head.lastOffset, tier)
    mergeTiers(head.device, tier)
    const { device: id, name, firstSeen, lastSeen, maxTs, lastStamp, lastOffset } = head
    const latest = Array.from(
      head.columns.values(),
      ({ metric, latest }): LatestRow => [metric, latest.ts, latest.value],
    )
    dictionary.put({ id, name, firstSeen, lastSeen, maxTs, lastStamp, sealedThrough: lastOffset + 1, latest })
    setRecoverFrom.run(recoverFromWithout(head))
  })

  function recoverFromWithout(sealed: Head): number {
    for (const head of heads.open.values()) if (head !== sealed) return head.firstOffset
    return heads.end
  }

  function writeBlock(device: number, rows: Rows, firstOffset: number, lastOffset: number, tier: number): void {
    const { directory, data } = encodeBlock(rows)
    const count = rows.times.length
    const [firstTs, lastTs] = [rows.times[0] as number, rows.times[count - 1] as number]
    insertBlock.run(device, firstTs, lastTs, firstOffset, lastOffset, count, tier, directory, data)
    heads.sealed.added(device, firstTs, lastTs)
  }

  // Only neighbours in the log may be merged: the order of blocks decides which of two values corrects the other.
  function mergeTiers(device: number, tier: number): void {
    const newest = newestBlocks.all(device, blocksPerTier).reverse()
    if (newest.length < blocksPerTier || newest.some((block) => block.tier !== tier)) return
    if (sumOf(newest, 'rows') > maxMergedRows || sumOf(newest, 'size') > maxMergedBytes) return
    const parts: Rows[] = []
    for (const { id } of newest) {
      const rows = blocks.rows(id)
      if (!rows) return
      parts.push(rows)
    }
    for (const { id } of newest) deleteBlock.run(id)
    heads.sealed.forget()
    const [first, last] = [newest[0] as BlockRow, newest.at(-1) as BlockRow]
    writeBlock(device, sortRows(concatRows(parts)), first.first_offset, last.last_offset, tier + 1)
    mergeTiers(device, tier + 1)
  }

  return {
    next() {
      while (fullHeads.length > 0 && !isFull(fullHeads.at(-1) as Head)) fullHeads.pop()
      const full = fullHeads.at(-1)
      const oldest = heads.open.values().next().value
      if (full || !oldest) return full
      if (heads.bytes > maxBytes) return oldest
      const span = heads.end - oldest.firstOffset
      // Devices in step grow old together. From half of the span on they are sealed one by one, so that none is left
      // when it is used up: a thousand heads at once held up commits for 170 ms.
      const pace = maxUnsealedSpan / 2 / heads.open.size
      if (span <= maxUnsealedSpan / 2 || (span <= maxUnsealedSpan && heads.end - lastSealedAt < pace)) return undefined
      return oldest
    },
    seal(head) {
      if (!isFull(head)) lastSealedAt = heads.end
      writeHead(head)
      heads.unsealed -= head.rows
      heads.bytes -= head.bytes
      heads.open.delete(head.device)
      clearHead(head)
    },
    full(head) {
      fullHeads.push(head)
    },
    get backlog() {
      const oldest = heads.open.values().next().value
      const span = oldest ? heads.end - oldest.firstOffset : 0
      return Math.max(span / maxUnsealedSpan, heads.bytes / maxBytes)
    },
  }
}

function sumOf(blocks: readonly BlockRow[], key: 'rows' | 'size'): number {
  return blocks.reduce((sum, block) => sum + block[key], 0)
}
