import type { Millis } from '../../devices/reading.ts'
import { changeBetween, createZone, type Zone } from '../../devices/zone.ts'

/** How time is cut into buckets: one after the other, without a gap, each instant in one. */
export interface Intervals {
  /** Where the bucket begins in which an instant lies. */
  start(ts: Millis): Millis
  /** Where it ends and the next one begins: always later than the instant. */
  end(ts: Millis): Millis
}

const hour = 3_600_000
const week = 7 * 24 * hour
// Weeks begin on Monday; the epoch was a Thursday.
const firstMonday = 4 * 24 * hour

/** Buckets of `interval` milliseconds that align to the epoch, or with a time zone to its local days. */
export function createIntervals(interval: number, timezone: string | null): Intervals {
  const origin = interval % week === 0 ? firstMonday : 0
  const floor = (time: number) => Math.floor((time - origin) / interval) * interval + origin
  if (timezone === null) return { start: floor, end: (ts) => floor(ts) + interval }
  const zone = createZone(timezone)
  // Up to an hour a bucket has its length, also when the clock is turned; longer ones follow the wall clock, so that
  // a day has 23 or 25 hours then.
  return interval > hour ? followWall(zone, floor, interval) : cutAtChanges(zone, floor, interval)
}

/** Where the clock is turned a bucket ends and another begins, unless it would end there anyhow. */
function cutAtChanges(zone: Zone, floor: (time: number) => number, interval: number): Intervals {
  return {
    start(ts) {
      const offset = zone(ts)
      const start = floor(ts + offset) - offset
      return zone(start) === offset ? start : changeBetween(zone, start, ts)
    },
    end(ts) {
      const offset = zone(ts)
      const end = floor(ts + offset) - offset + interval
      return zone(end - 1) === offset ? end : changeBetween(zone, ts, end - 1)
    },
  }
}

/** Offsets are smaller than this, and change once at most within twice of it. */
const reach = 24 * hour

/** A bucket begins when the wall clock first shows its time, or skips it: instants that ascend as the times do. */
function followWall(zone: Zone, floor: (time: number) => number, interval: number): Intervals {
  function firstShown(wall: number): Millis {
    const before = zone(wall - reach)
    const after = zone(wall + reach)
    if (before === after) return wall - before
    const change = changeBetween(zone, wall - reach, wall + reach)
    return wall - before < change ? wall - before : Math.max(change, wall - after)
  }

  // A clock that is turned back shows again what lies before a bucket that has begun.
  function wallOfNext(ts: Millis): number {
    let wall = floor(ts + zone(ts)) + interval
    while (firstShown(wall) <= ts) wall += interval
    return wall
  }

  return {
    start: (ts) => firstShown(wallOfNext(ts) - interval),
    end: (ts) => firstShown(wallOfNext(ts)),
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
