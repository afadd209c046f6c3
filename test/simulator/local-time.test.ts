import { expect, it } from 'vitest'
import { createTimeReader } from '../../simulator/local-time.ts'

const utc = createTimeReader('UTC')
const berlin = createTimeReader('Europe/Berlin')

it.each([
  ['2010-01-01T01:00:00', '2010-01-01T01:00:00Z'],
  ['2010-01-01 01:00', '2010-01-01T01:00:00Z'],
  ['2010-01-01', '2010-01-01T00:00:00Z'],
  ['2010-01-01T01:00:00.25Z', '2010-01-01T01:00:00.250Z'],
  ['2010-01-01T01:00:00+05:30', '2009-12-31T19:30:00Z'],
  ['2010-01-01 01:00:00 -0800', '2010-01-01T09:00:00Z'],
  ['1262307600000', '2010-01-01T01:00:00Z'],
])('%s is %s where nothing else is said', (text, instant) => {
  expect(utc.read(text)).toBe(Date.parse(instant))
})

it('a time with a zone means that zone, whatever --time-zone says', () => {
  expect(berlin.read('2024-07-01T12:00:00Z')).toBe(Date.UTC(2024, 6, 1, 12))
  expect(berlin.read('2024-07-01T12:00:00-04:00')).toBe(Date.UTC(2024, 6, 1, 16))
})

it('a time without a zone follows the clocks of the place, in winter and in summer', () => {
  expect(berlin.read('2024-01-15T12:00:00')).toBe(Date.UTC(2024, 0, 15, 11))
  expect(berlin.read('2024-07-15T12:00:00')).toBe(Date.UTC(2024, 6, 15, 10))
  expect(createTimeReader('Asia/Kathmandu').read('2024-01-15T12:00')).toBe(Date.UTC(2024, 0, 15, 6, 15))
  expect(createTimeReader('America/Los_Angeles').read('2024-12-31T23:30')).toBe(Date.UTC(2025, 0, 1, 7, 30))
})

it('the hour that clocks skip in spring is read as if they had not', () => {
  expect(berlin.read('2024-03-31T01:59:59')).toBe(Date.UTC(2024, 2, 31, 0, 59, 59))
  expect(berlin.read('2024-03-31T02:30:00')).toBe(Date.UTC(2024, 2, 31, 1, 30))
  expect(berlin.read('2024-03-31T03:00:00')).toBe(Date.UTC(2024, 2, 31, 1, 0))
})

it('the hour that clocks show twice in autumn is read twice, in the order of the file', () => {
  const texts = ['01:30', '02:00', '02:30', '02:00', '02:30', '03:00'].map((time) => `2024-10-27T${time}`)
  let last: number | undefined
  const read = texts.map((text) => (last = berlin.read(text, last) as number))
  const half = 1_800_000
  expect(read.map((millis) => (millis - read[0]!) / half)).toEqual([0, 1, 2, 3, 4, 5])
})

it.each([
  ['yesterday', 'is no time'],
  ['', 'is no time'],
  ['31.01.2024 10:00', 'is no time'],
  ['2024-02-30', 'is not in the calendar'],
  ['2024-01-01T25:00', 'is not in the calendar'],
  ['1262307600', 'looks like seconds'],
  ['2010', 'is before 2000'],
])('"%s" is refused with the reason that it %s', (text, reason) => {
  expect(utc.read(text)).toContain(reason)
})
