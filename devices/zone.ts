import type { Millis } from './reading.ts'

/** What has to be added to UTC to get the wall clock of a place, at an instant. */
export type Zone = (ts: Millis) => Millis

/** The instants between which runtimes know zones; beyond them clocks stay as they are at these. */
const earliest = Date.UTC(1900, 0, 1)
const latest = Date.UTC(2200, 0, 1)

// Formatting costs 4 µs, and a query may span years. No zone since 1900 has changed its offset twice within three days,
// so a span whose ends agree has one offset, and another has one change.
const span = 86_400_000

interface Span {
  before: Millis
  /** From here on the offset is `after`. */
  change: Millis
  after: Millis
}

/** The offset of a time zone from UTC, as the runtime's own time zone data has it. Throws `RangeError` for an unknown one. */
export function createZone(timeZone: string): Zone {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone,
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  })
  const known = new Map<number, Span>()

  function measure(ts: Millis): Millis {
    const parts = { year: 0, month: 0, day: 0, hour: 0, minute: 0, second: 0 }
    for (const { type, value } of format.formatToParts(ts)) if (type in parts) parts[type as 'year'] = Number(value)
    const wall = Date.UTC(parts.year, parts.month - 1, parts.day, parts.hour, parts.minute, parts.second)
    return wall - Math.floor(ts / 1000) * 1000
  }

  function measureSpan(key: number): Span {
    const begin = key * span
    const before = known.get(key - 1)?.after ?? measure(begin)
    const after = measure(begin + span)
    const change = before === after ? Number.POSITIVE_INFINITY : changeBetween(measure, begin, begin + span)
    return { before, change, after }
  }

  return (ts) => {
    const at = Math.min(Math.max(ts, earliest), latest)
    const key = Math.floor(at / span)
    let found = known.get(key)
    if (found === undefined) {
      found = measureSpan(key)
      known.set(key, found)
    }
    return at < found.change ? found.before : found.after
  }
}

/** From when on a zone has the offset that it has at `to`. It has another one at `from`, and changes once between them. */
export function changeBetween(zone: Zone, from: Millis, to: Millis): Millis {
  const after = zone(to)
  let low = from
  let high = to
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    if (zone(middle) === after) high = middle
    else low = middle
  }
  return high
}
