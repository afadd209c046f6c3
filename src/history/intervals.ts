import type { Millis } from '../../devices/reading.ts'

/** Cuts time into buckets. `start` is the beginning of the bucket that holds `ts`, `next` that of the one after. */
export interface Intervals {
  start(ts: Millis): Millis
  next(start: Millis): Millis
}

const hour = 3_600_000
// Weeks begin on Monday (ISO 8601); the epoch was a Thursday.
const week = 7 * 24 * hour
const firstMonday = 4 * 24 * hour

/** Buckets of `interval` milliseconds that align to the epoch, or with a time zone to its local days. */
export function createIntervals(interval: number, timezone: string | null): Intervals {
  const origin = interval % week === 0 ? firstMonday : 0
  const floor = (time: number) => Math.floor((time - origin) / interval) * interval + origin
  if (timezone === null) return { start: floor, next: (start) => start + interval }

  const zone = createZone(timezone)
  // Up to an hour a bucket has its length, also when the clock is turned; longer ones follow the wall clock, so that
  // a day has 23 or 25 hours then.
  const followsWall = interval > hour
  const start = (ts: Millis): Millis => {
    const offset = zone.offset(ts)
    return followsWall ? Math.min(ts, zone.fromWall(floor(ts + offset))) : floor(ts + offset) - offset
  }
  const next = (begin: Millis): Millis => {
    if (!followsWall) return start(begin + interval) > begin ? start(begin + interval) : begin + interval
    const wall = floor(begin + zone.offset(begin)) + interval
    const after = zone.fromWall(wall)
    return after > begin ? after : zone.fromWall(wall + interval)
  }
  return { start, next }
}

/** The offset of a time zone from UTC, as the runtime's own time zone data has it. */
function createZone(timezone: string) {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: timezone,
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  })
  // Offsets change at most at a full quarter of an hour, so one answer serves for all of it.
  const quarter = hour / 4
  const known = new Map<number, number>()

  function offset(ts: Millis): number {
    const key = Math.floor(ts / quarter)
    let found = known.get(key)
    if (found === undefined) {
      if (known.size > 100_000) known.clear()
      found = measure(key * quarter)
      known.set(key, found)
    }
    return found
  }

  function measure(ts: Millis): number {
    const parts = { year: 0, month: 0, day: 0, hour: 0, minute: 0, second: 0 }
    for (const { type, value } of format.formatToParts(ts)) if (type in parts) parts[type as 'year'] = Number(value)
    return Date.UTC(parts.year, parts.month - 1, parts.day, parts.hour, parts.minute, parts.second) - ts
  }

  return {
    offset,
    /** The instant at which a wall clock shows this time; in a gap the instant after it, twice shown: the first. */
    fromWall(wall: number): Millis {
      const before = wall - offset(wall - 24 * hour)
      const after = wall - offset(wall + 24 * hour)
      const candidates = [Math.min(before, after), Math.max(before, after)]
      return candidates.find((ts) => ts + offset(ts) === wall) ?? Math.max(before, after)
    },
  }
}

/** Whether the runtime knows the time zone. */
export function isTimezone(timezone: string): boolean {
  try {
    new Intl.DateTimeFormat('en-US', { timeZone: timezone })
    return true
  } catch {
    return false
  }
}
