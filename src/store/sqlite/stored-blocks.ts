import type Database from 'better-sqlite3'
import { type Directory, decodeBlock, decodeTimes, readDirectory } from '../block.ts'
import type { Rows } from '../columns.ts'
import { isDamage } from '../damage.ts'

/** Blocks as the writer reads them again. One that is damaged is told once and then passed over: devices push on. */
export interface StoredBlocks {
  /** `null`: it is damaged. */
  rows(id: number): Rows | null
  times(id: number): Float64Array | null
  /** How many are known to be damaged. */
  readonly damaged: number
  /** Blocks that were merged or forgotten leave their number free for another one. */
  forget(): void
}

export function createStoredBlocks(db: Database.Database, onDamage: (what: string) => void): StoredBlocks {
  const content = db.prepare<[number], { directory: Buffer; data: Buffer }>(
    'SELECT directory, data FROM blocks WHERE id = ?',
  )
  const damaged = new Set<number>()

  function read<T>(id: number, decode: (directory: Directory, data: Buffer) => T): T | null {
    if (damaged.has(id)) return null
    try {
      const { directory, data } = content.get(id) as { directory: Buffer; data: Buffer }
      return decode(readDirectory(directory), data)
    } catch (error) {
      if (!isDamage(error)) throw error
      damaged.add(id)
      onDamage(`block ${id} of history cannot be read: ${(error as Error).message}`)
      return null
    }
  }

  return {
    rows: (id) => read(id, (directory, data) => decodeBlock(directory, data)),
    times: (id) => read(id, decodeTimes),
    get damaged() {
      return damaged.size
    },
    forget: () => damaged.clear(),
  }
}
