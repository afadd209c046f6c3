import type { Offset } from './store/store.ts'
import type { Committed } from './writer.ts'

/** The newest commits, in memory. */
export interface Tail {
  push(committed: Committed): void
  /** Whether what comes after a place is all here. */
  holds(after: Offset): boolean
  /** The commits from the one on that holds a place. Their records are there until the next `push`. */
  from(after: Offset): Iterable<Pick<Committed, 'first' | 'records'>>
}

/** Many commits in one piece of memory; in arrays beside it, where each of them begins. */
interface Chunk {
  bytes: Uint8Array
  used: number
  firsts: Offset[]
  starts: number[]
}

const chunkBytes = 128 * 1024

interface TailLimits {
  /** About so many of the newest, a chunk more or less. */
  maxReadings: number
  maxBytes: number
}

/**
 * It keeps bytes, not commits: as objects, 2,500 small ones a second took ten times the
 * memory of what they hold, and the garbage collector moved each of them twice.
 */
export function createTail({ maxReadings, maxBytes }: TailLimits): Tail {
  const chunks: Chunk[] = []
  let held = 0

  /** Whether the chunks after the oldest one are enough. */
  function isOver(first: Offset): boolean {
    return held > maxBytes || first - (chunks[1]?.firsts[0] ?? first) >= maxReadings
  }

  function chunkWith(room: number, first: Offset): Chunk {
    const last = chunks.at(-1)
    if (last && last.used + room <= last.bytes.length) return last
    const size = Math.max(chunkBytes, room)
    let bytes: Uint8Array | null = null
    held += size
    while (isOver(first) && chunks.length > 0) {
      const oldest = chunks.shift() as Chunk
      held -= oldest.bytes.length
      // What has grown old is not collected before long: its memory is written again.
      if (oldest.bytes.length === size) bytes = oldest.bytes
    }
    const chunk: Chunk = { bytes: bytes ?? new Uint8Array(size), used: 0, firsts: [], starts: [] }
    chunks.push(chunk)
    return chunk
  }

  return {
    push({ first, records }) {
      const chunk = chunkWith(records.length, first)
      chunk.bytes.set(records, chunk.used)
      chunk.firsts.push(first)
      chunk.starts.push(chunk.used)
      chunk.used += records.length
    },
    holds: (after) => after >= (chunks[0]?.firsts[0] ?? Number.POSITIVE_INFINITY),
    *from(after) {
      let at = chunks.length - 1
      while (at > 0 && (chunks[at]?.firsts[0] as Offset) > after) at--
      for (; at < chunks.length; at++) {
        const { bytes, used, firsts, starts } = chunks[at] as Chunk
        for (let i = placeOf(firsts, after); i < firsts.length; i++) {
          yield { first: firsts[i] as Offset, records: bytes.subarray(starts[i], starts[i + 1] ?? used) }
        }
      }
    },
  }
}

/** The last place whose offset is not beyond `after`, or 0. */
function placeOf(firsts: readonly Offset[], after: Offset): number {
  let low = 0
  let high = firsts.length - 1
  while (low < high) {
    const middle = (low + high + 1) >>> 1
    if ((firsts[middle] as Offset) <= after) low = middle
    else high = middle - 1
  }
  return low
}
