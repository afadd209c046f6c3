import type { Millis, Value } from './api.ts'

const plain = new Intl.NumberFormat(undefined, { maximumFractionDigits: 3 })
const small = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 4 })
const scientific = new Intl.NumberFormat(undefined, { notation: 'scientific', maximumSignificantDigits: 5 })
const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 })
const rate = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 })

const second = 1000
const minute = 60 * second
const hour = 60 * minute
const day = 24 * hour

// 24 hours whatever the locale: shorter, and nobody mistakes 12 for 0.
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' })
const clockSeconds = new Intl.DateTimeFormat(undefined, {
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  hourCycle: 'h23',
})
const date = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' })
const fullDate = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short', year: 'numeric' })

/** Names as people sort them: sim-2 before sim-10. */
export const compareNames = new Intl.Collator(undefined, { numeric: true }).compare

export function formatNumber(value: number): string {
  const size = Math.abs(value)
  if (size >= 1e12 || (size < 1e-4 && size > 0)) return scientific.format(value)
  return (size >= 1 ? plain : small).format(value)
}

export function formatValue(value: Value): string {
  if (typeof value === 'number') return formatNumber(value)
  if (typeof value === 'boolean') return value ? 'yes' : 'no'
  return value.trim() === '' ? '(empty)' : value
}

export function formatCount(count: number): string {
  return whole.format(count)
}

/** Readings per second: one digit more while they are few. */
export function formatRate(perSecond: number): string {
  return (perSecond < 10 ? rate : whole).format(perSecond)
}

/** How long ago, in the largest unit that says enough. */
export function formatAge(ts: Millis, now: Millis): string {
  const age = now - ts
  if (age < -2 * second) return `in ${formatLength(-age)}`
  return age < 2 * second ? 'now' : `${formatLength(age)} ago`
}

function formatLength(millis: Millis): string {
  if (millis < minute) return `${Math.floor(millis / second)} s`
  if (millis < hour) return `${Math.floor(millis / minute)} min`
  if (millis < 2 * day) return `${Math.floor(millis / hour)} h`
  return `${whole.format(Math.floor(millis / day))} d`
}

/** A point in time, with the day when it is not today. */
export function formatInstant(ts: Millis, now: Millis): string {
  const time = clockSeconds.format(ts)
  return fullDate.format(ts) === fullDate.format(now) ? time : `${date.format(ts)}, ${time}`
}

/** The label of a tick, when ticks are `step` apart. */
export function formatTick(ts: Millis, step: Millis): string {
  if (step >= day || clock.format(ts) === '00:00') return date.format(ts)
  return (step < minute ? clockSeconds : clock).format(ts)
}
