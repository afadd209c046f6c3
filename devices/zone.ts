import type { Millis } from './reading.ts'

/** What has to be added to UTC to get the wall clock of a place, at an instant. */
export type Zone = (ts: Millis) => Millis

// Zones change their offset at full quarters of an hour, so one answer serves for all of it.
const quarter = 900_000
/** Formatting costs microseconds, and a query may span years. */
const maxKnown = 100_000

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
  const known = new Map<number, Millis>()

  function measure(ts: Millis): Millis {
    const parts = { year: 0, month: 0, day: 0, hour: 0, minute: 0, second: 0 }
    for (const { type, value } of format.formatToParts(ts)) if (type in parts) parts[type as 'year'] = Number(value)
    return Date.UTC(parts.year, parts.month - 1, parts.day, parts.hour, parts.minute, parts.second) - ts
  }

  return (ts) => {
    const key = Math.floor(ts / quarter)
    let found = known.get(key)
    if (found === undefined) {
      if (known.size >= maxKnown) known.clear()
      found = measure(key * quarter)
      known.set(key, found)
    }
    return found
  }
}
