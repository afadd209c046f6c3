import type { Millis } from '../../devices/reading.ts'
import { createZone, type Zone } from '../../devices/zone.ts'

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
    const offset = zone(ts)
    return followsWall ? Math.min(ts, fromWall(floor(ts + offset), zone)) : floor(ts + offset) - offset
  }
  const next = (begin: Millis): Millis => {
    if (!followsWall) return start(begin + interval) > begin ? start(begin + interval) : begin + interval
    const wall = floor(begin + zone(begin)) + interval
    const after = fromWall(wall, zone)
    return after > begin ? after : fromWall(wall + interval, zone)
  }
  return { start, next }
}

/** The instant at which a wall clock shows this time; in a gap the instant after it, twice shown: the first. */
function fromWall(wall: number, zone: Zone): Millis {
  const before = wall - zone(wall - 24 * hour)
  const after = wall - zone(wall + 24 * hour)
  const candidates = [Math.min(before, after), Math.max(before, after)]
  return candidates.find((ts) => ts + zone(ts) === wall) ?? Math.max(before, after)
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
