import type { Offset } from './store/store.ts'

/** A cursor as a reader holds it: opaque, of one hub, naming the next reading of the log. */
export function writeCursor(hub: string, offset: Offset): string {
  return `${hub}-${offset.toString(36)}`
}

/** Why a cursor does not work here. */
export type CursorProblem = 'malformed' | 'other-hub' | 'future'

/** The offset that a cursor names, or what is wrong with it. `end` is one past the last reading of the log. */
export function readCursor(hub: string, end: Offset, cursor: string): Offset | CursorProblem {
  const match = /^([0-9a-f]{10})-([0-9a-z]{1,11})$/.exec(cursor)
  if (!match) return 'malformed'
  if (match[1] !== hub) return 'other-hub'
  const offset = Number.parseInt(match[2] as string, 36)
  if (offset < 1 || !Number.isSafeInteger(offset)) return 'malformed'
  return offset > end ? 'future' : offset
}
