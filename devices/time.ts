import type { Millis } from './reading.ts'

/** The span of times that a device may report: from `earliest` to now + `maxAhead`. */
export interface TimeWindow {
  earliest: Millis
  /** Milliseconds that a device's clock may run ahead of the hub's. */
  maxAhead: number
}

export const defaultWindow: TimeWindow = { earliest: Date.UTC(2000, 0, 1), maxAhead: 24 * 3_600_000 }

// RFC 3339 §5.6 date-time: the zone is required, a space may stand for the "T".
const rfc3339 = /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)$/

/** RFC 3339 to milliseconds (finer fractions are cut), or `null` when it is not a valid date-time. */
export function parseRfc3339(text: string): Millis | null {
  const match = rfc3339.exec(text)
  if (!match) return null
  const [, year, month, day, hour, minute, second, fraction = '', zone = 'Z'] = match
  if (Number(hour) > 23 || Number(minute) > 59 || Number(second) > 60) return null
  const offset = zoneMillis(zone)
  if (offset === null) return null
  const date = new Date(0)
  date.setUTCFullYear(Number(year), Number(month) - 1, Number(day))
  if (date.getUTCMonth() !== Number(month) - 1 || date.getUTCDate() !== Number(day)) return null
  date.setUTCHours(Number(hour), Number(minute), Number(second), Number(fraction.slice(0, 3).padEnd(3, '0')))
  const ts = date.getTime() - offset
  // A leap second (23:59:60 UTC) is carried over to the first instant of the next day; there is none at other times.
  return second === '60' && (ts < 0 || ts % dayMillis >= 1000) ? null : ts
}

const dayMillis = 86_400_000

/** Milliseconds ahead of UTC, or `null` where a zone cannot be so (RFC 3339 §5.6). */
function zoneMillis(zone: string): number | null {
  if (zone === 'Z' || zone === 'z') return 0
  const [hours, minutes] = [Number(zone.slice(1, 3)), Number(zone.slice(4, 6))]
  if (hours > 23 || minutes > 59) return null
  return (zone.startsWith('-') ? -1 : 1) * (hours * 60 + minutes) * 60_000
}

/** The time of a reading as a device wrote it: milliseconds, or the reason why it cannot be one. */
export function readTime(ts: unknown, now: Millis, window: TimeWindow): Millis | string {
  if (typeof ts === 'string') {
    const parsed = parseRfc3339(ts)
    if (parsed === null) {
      return `"ts" is the text "${ts.slice(0, 40)}": send integer milliseconds, or RFC 3339 with its zone`
    }
    return withinWindow(parsed, now, window)
  }
  if (typeof ts !== 'number') return '"ts" must be integer milliseconds or an RFC 3339 text'
  return withinWindow(ts, now, window)
}

function withinWindow(ts: Millis, now: Millis, window: TimeWindow): Millis | string {
  if (ts >= window.earliest && ts <= now + window.maxAhead) {
    return Number.isInteger(ts) ? ts : `"ts" is ${ts}: milliseconds have no fraction`
  }
  return `"ts" is ${ts}: ${suspicion(ts, now, window)}`
}

// The unit is never guessed, only named: a wrong guess would be a wrong row for ever.
const units = [
  { name: 'seconds, not milliseconds', factor: 1000 },
  { name: 'microseconds, not milliseconds', factor: 1e-3 },
  { name: 'nanoseconds, not milliseconds', factor: 1e-6 },
]

function suspicion(ts: number, now: Millis, window: TimeWindow): string {
  for (const { name, factor } of units) {
    const scaled = ts * factor
    if (scaled >= window.earliest && scaled <= now + window.maxAhead) return `this looks like ${name}`
  }
  if (ts > now) return `this is more than ${written(window.maxAhead)} in the future`
  return `this is before ${new Date(window.earliest).toISOString().slice(0, 10)}, the earliest time that is accepted`
}

/** A length of time in the largest unit in which it is whole. */
function written(millis: number): string {
  const [unit, size] = lengths.find(([, size]) => millis % size === 0) ?? ['ms', 1]
  return `${millis / size} ${unit}`
}

const lengths: readonly [string, number][] = [
  ['h', 3_600_000],
  ['min', 60_000],
  ['s', 1000],
]
