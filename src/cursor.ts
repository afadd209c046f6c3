import { Problem, type ProblemCode } from './errors.ts'
import { earliest } from './feed.ts'
import type { Offset, Opened } from './store/store.ts'

/** A cursor as a reader holds it: opaque, of one hub, naming the next reading of the log. */
export function writeCursor(hub: string, offset: Offset): string {
  return `${hub}-${offset.toString(36)}`
}

/** What tells whose a cursor is. */
type Log = Pick<Opened, 'hub' | 'earlier'>

/** Why a cursor does not work here. */
type CursorProblem = 'malformed' | 'other-hub' | 'future' | 'undone'

/** The offset that a cursor names, or what is wrong with it. `end` is one past the last reading of the log. */
function readCursor({ hub, earlier }: Log, end: Offset, cursor: string): Offset | CursorProblem {
  const match = /^([0-9a-f]{10})-([0-9a-z]{1,11})$/.exec(cursor)
  if (!match) return 'malformed'
  const former = match[1] === hub ? undefined : earlier.find((log) => log.hub === match[1])
  if (match[1] !== hub && !former) return 'other-hub'
  const offset = Number.parseInt(match[2] as string, 36)
  if (offset < 1 || !Number.isSafeInteger(offset)) return 'malformed'
  if (former && offset > former.end) return 'undone'
  return offset > end ? 'future' : offset
}

const problems: Record<CursorProblem, [ProblemCode, string]> = {
  malformed: ['invalid-cursor', 'this is no cursor, nor earliest, nor latest'],
  'other-hub': ['foreign-cursor', 'the cursor is of another hub'],
  future: ['foreign-cursor', 'the cursor is from the future: this hub has not come so far'],
  undone: [
    'foreign-cursor',
    'the cursor is from the future: it is younger than the backup that this hub was restored from',
  ],
}

/** The offset that `earliest`, `latest` or a cursor names. Throws the `Problem` that says what is wrong with it. */
export function readPlace(log: Log, end: Offset, place: string): Offset {
  if (place === 'earliest') return earliest
  if (place === 'latest') return end
  const offset = readCursor(log, end, place)
  if (typeof offset === 'number') return offset
  const [code, detail] = problems[offset]
  throw new Problem(code, detail, 'start again with earliest or latest')
}
