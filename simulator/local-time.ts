import { defaultWindow, parseRfc3339 } from '../devices/time.ts'
import { createZone, type Zone } from '../devices/zone.ts'

/** Reads times as people write them into files: with a zone, or as the wall clock of a place. */
export interface TimeReader {
  /**
   * Milliseconds since the epoch, or the reason why the text is no time. `after` is the time before it in the same
   * series, if any: in the hour that a clock shows twice it tells the first pass from the second.
   */
  read(text: string, after?: number): number | string
}

const written = /^(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)(:\d\d(?:\.\d+)?)?)?\s*(?:([Zz])|([+-]\d\d):?(\d\d))?$/

export function createTimeReader(timeZone: string): TimeReader {
  const zone = timeZone === 'UTC' ? undefined : createZone(timeZone)
  return {
    read(text, after = Number.NEGATIVE_INFINITY) {
      if (/^-?\d+$/.test(text)) return readMillis(Number(text))
      const match = written.exec(text)
      if (!match)
        return `"${text.slice(0, 40)}" is no time: write 2026-01-31T13:00:00, with a zone or without, or milliseconds`
      const [, date, minutes = '00:00', seconds = ':00', utc, hours, offsetMinutes] = match
      const offset = utc ?? (hours ? `${hours}:${offsetMinutes}` : '')
      const millis = parseRfc3339(`${date}T${minutes}${seconds}${offset || 'Z'}`)
      if (millis === null) return `"${text}" is not in the calendar`
      return offset !== '' || !zone ? millis : fromWallClock(millis, zone, after)
    },
  }
}

/** The unit of a bare number is never guessed. */
function readMillis(millis: number): number | string {
  if (millis >= defaultWindow.earliest) return millis
  return millis * 1000 >= defaultWindow.earliest
    ? `${millis} looks like seconds: times as numbers are in milliseconds`
    : `${millis} is before 2000: times as numbers are milliseconds since 1970`
}

const dayMillis = 86_400_000

/**
 * The instant at which the clocks of the zone show `wall` (given as if it were UTC). Where clocks skip it, the instant
 * as if they had not; where they show it twice, the first that is later than `after`.
 */
function fromWallClock(wall: number, zone: Zone, after: number): number {
  const before = zone(wall - dayMillis)
  const candidates = [...new Set([before, zone(wall + dayMillis)])]
    .filter((offset) => zone(wall - offset) === offset)
    .map((offset) => wall - offset)
    .sort((a, b) => a - b)
  return candidates.find((instant) => instant > after) ?? candidates.at(-1) ?? wall - before
}
