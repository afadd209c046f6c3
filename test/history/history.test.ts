import { describe, expect, test } from 'vitest'
import type { Value } from '../../devices/reading.ts'
import { changeBetween, createZone, type Zone } from '../../devices/zone.ts'
import { readBuckets } from '../../src/history/buckets.ts'
import { createIntervals } from '../../src/history/intervals.ts'
import { readPage } from '../../src/history/page.ts'
import { type AggregateFunction, type BucketQuery, TooCostly } from '../../src/history/query.ts'
import type { Segment } from '../../src/history/segments.ts'
import { decodeBlock, encodeBlock, readDirectory } from '../../src/store/block.ts'
import { type Rows, sortRows, valueAt } from '../../src/store/columns.ts'
import { createRandom, type Random } from '../random.ts'

/*
 * The engine against the plainest thing that could be right: an array of all readings. Segments overlap, repeat times
 * and correct each other, as late readings and redeliveries make them.
 */

interface Plain {
  ts: number
  values: Record<number, Value>
}

const metrics = [1, 2, 3]

function someReadings(random: Random, count: number): Plain[] {
  let clock = 1_700_000_000_000 - (1_700_000_000_000 % 60_000)
  return Array.from({ length: count }, () => {
    clock += random.integer(0, 20) * 1000
    const late = random.next() < 0.2 ? random.integer(0, 200) * 1000 : 0
    const values: Record<number, Value> = {}
    if (random.next() < 0.8) values[1] = random.integer(-100, 100) / 10
    if (random.next() < 0.5) values[2] = random.next() < 0.5
    if (random.next() < 0.3 || Object.keys(values).length === 0) values[3] = random.pick(['a', 'b', 'c'])
    return { ts: clock - late, values }
  })
}

/** Cuts the log into blocks and a head, in its order. */
function toSegments(random: Random, readings: Plain[]): Segment[] {
  const segments: Segment[] = []
  for (let at = 0; at < readings.length; ) {
    const part = readings.slice(at, at + random.integer(1, 60))
    at += part.length
    const rows: Rows = sortRows({
      times: Float64Array.from(part, ({ ts }) => ts),
      columns: metrics
        .filter((metric) => part.some(({ values }) => values[metric] !== undefined))
        .map((metric) => ({
          metric,
          values: part.every(({ values }) => typeof (values[metric] ?? 0) === 'number')
            ? Float64Array.from(part, ({ values }) => (values[metric] as number | undefined) ?? Number.NaN)
            : part.map(({ values }) => values[metric]),
        })),
    })
    const times = { firstTs: rows.times[0] as number, lastTs: rows.times.at(-1) as number, rows: part.length }
    if (at >= readings.length) {
      segments.push({ ...times, directory: null, open: () => rows })
    } else {
      const { directory, data } = encodeBlock(rows)
      const read = readDirectory(directory)
      segments.push({ ...times, directory: read, open: () => decodeBlock(read, data) })
    }
  }
  return segments
}

/** One row a time, the last value of each metric. */
function merged(readings: Plain[], from: number, to: number): Plain[] {
  const rows = new Map<number, Plain>()
  for (const { ts, values } of readings) {
    if (ts < from || ts >= to) continue
    rows.set(ts, { ts, values: { ...rows.get(ts)?.values, ...values } })
  }
  return [...rows.values()].sort((a, b) => a.ts - b.ts)
}

function toPlain(rows: Rows): Plain[] {
  return Array.from(rows.times, (ts, row) => {
    const values: Record<number, Value> = {}
    for (const column of rows.columns) {
      const value = valueAt(column.values, row)
      if (value !== undefined) values[column.metric] = value
    }
    return { ts, values }
  })
}

function someRange(random: Random, readings: Plain[]) {
  const times = readings.map(({ ts }) => ts)
  const least = Math.min(...times)
  const most = Math.max(...times)
  if (random.next() < 0.4) return { from: Number.MIN_SAFE_INTEGER, to: Number.MAX_SAFE_INTEGER }
  const from = random.integer(least - 5000, most)
  return { from, to: random.integer(from + 1, most + 5000) }
}

describe('raw pages', () => {
  for (const order of ['asc', 'desc'] as const) {
    test(`read one after the other (${order}) are the whole history, each time once, corrections applied`, () => {
      for (let seed = 1; seed <= 150; seed++) {
        const random = createRandom(seed)
        const readings = someReadings(random, random.integer(1, 400))
        const segments = toSegments(random, readings)
        const { from, to } = someRange(random, readings)
        const limit = random.integer(1, 80)
        const rows: Plain[] = []
        let position: number | null = null
        do {
          const range = order === 'asc' ? { from: position ?? from, to } : { from, to: position ?? to }
          const page = readPage(segments, { ...range, order, limit })
          const plain = toPlain(page.rows)
          expect(plain.length).toBeLessThanOrEqual(limit)
          if (order === 'asc') rows.push(...plain)
          else rows.unshift(...plain)
          position = page.next
        } while (position !== null)
        expect(rows, `seed ${seed}`).toEqual(merged(readings, from, to))
      }
    })
  }
})

const plainFunctions: Record<AggregateFunction, (values: Value[]) => Value | undefined> = {
  avg: (values) => numbersOf(values, (numbers) => numbers.reduce((a, b) => a + b, 0) / numbers.length),
  min: (values) => numbersOf(values, (numbers) => Math.min(...numbers)),
  max: (values) => numbersOf(values, (numbers) => Math.max(...numbers)),
  sum: (values) => numbersOf(values, (numbers) => numbers.reduce((a, b) => a + b, 0)),
  count: (values) => values.length,
  first: (values) => values[0],
  last: (values) => values.at(-1),
}

function numbersOf(values: Value[], compute: (numbers: number[]) => number): number | undefined {
  const numbers = values.filter((value) => typeof value !== 'string').map(Number)
  return numbers.length === 0 ? undefined : compute(numbers)
}

const aggregate = Object.keys(plainFunctions) as AggregateFunction[]

type Bucket = { ts: number; figures: Record<string, Value | undefined> }

function plainBuckets(rows: Plain[], interval: number, fill: BucketQuery['fill'], from: number, to: number): Bucket[] {
  const start = (ts: number) => Math.floor(ts / interval) * interval
  const groups = groupBy(rows, ({ ts }) => start(ts))
  const begin = from === Number.MIN_SAFE_INTEGER ? rows[0]?.ts : from
  const end = to === Number.MAX_SAFE_INTEGER ? (rows.at(-1)?.ts ?? 0) + 1 : to
  const starts: number[] = []
  if (fill === 'none') starts.push(...[...groups.keys()].sort((a, b) => a - b))
  else if (begin !== undefined) for (let at = start(begin); at < end; at += interval) starts.push(at)
  const buckets = starts.map((ts): Bucket => {
    const figures: Bucket['figures'] = {}
    for (const metric of metrics) {
      const values = (groups.get(ts) ?? []).flatMap((row) =>
        row.values[metric] === undefined ? [] : [row.values[metric] as Value],
      )
      for (const name of aggregate)
        figures[`${metric}.${name}`] = values.length === 0 ? undefined : plainFunctions[name](values)
    }
    return { ts, figures }
  })
  if (fill === 'previous') {
    for (const key of Object.keys(buckets[0]?.figures ?? {})) {
      let previous: Value | undefined
      for (const { figures } of buckets) previous = figures[key] ??= previous as Value
    }
  }
  if (fill === 'linear') {
    for (const key of Object.keys(buckets[0]?.figures ?? {})) {
      const known = buckets.filter(({ figures }) => figures[key] !== undefined)
      for (const bucket of buckets) {
        if (bucket.figures[key] !== undefined) continue
        const left = known.findLast(({ ts }) => ts < bucket.ts)
        const right = known.find(({ ts }) => ts > bucket.ts)
        const [a, b] = [left?.figures[key], right?.figures[key]]
        if (left && right && typeof a === 'number' && typeof b === 'number') {
          bucket.figures[key] = a + ((b - a) / (right.ts - left.ts)) * (bucket.ts - left.ts)
        }
      }
    }
  }
  return buckets
}

function groupBy<T>(items: T[], key: (item: T) => number): Map<number, T[]> {
  const groups = new Map<number, T[]>()
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item])
  return groups
}

describe('aggregates', () => {
  for (const fill of ['none', 'null', 'previous', 'linear'] as const) {
    for (const order of ['asc', 'desc'] as const) {
      test(`with fill=${fill}, page by page (${order}), are what adding up all readings gives`, () => {
        for (let seed = 1; seed <= 80; seed++) {
          const random = createRandom(seed)
          const readings = someReadings(random, random.integer(1, 300))
          const segments = toSegments(random, readings)
          const { from, to } = someRange(random, readings)
          const interval = random.pick([5_000, 60_000, 300_000, 3_600_000])
          const limit = random.integer(1, 40)
          const query: BucketQuery = { written: '', interval, aggregate, fill, timezone: null }
          const found: Bucket[] = []
          let position: number | null = null
          do {
            const page = readBuckets(
              segments,
              { from, to, position, order, limit, metrics },
              query,
              createIntervals(interval, null),
            )
            const buckets = Array.from(page.times, (ts, row): Bucket => {
              const figures: Bucket['figures'] = {}
              for (const column of page.columns)
                figures[`${column.metric}.${column.aggregate}`] = valueAt(column.values, row)
              return { ts, figures }
            })
            if (order === 'asc') found.push(...buckets)
            else found.unshift(...buckets)
            position = page.next
          } while (position !== null)
          const expected = plainBuckets(merged(readings, from, to), interval, fill, from, to)
          // Without a reading in the range there is nothing to fill from, and no end to fill to.
          if (readings.every(({ ts }) => ts < from || ts >= to) && fill !== 'none' && found.length === 0) continue
          expect(
            found.map(({ ts }) => ts),
            `seed ${seed}`,
          ).toEqual(expected.map(({ ts }) => ts))
          found.forEach(({ figures }, index) => {
            for (const [name, value] of Object.entries(expected[index]?.figures ?? {})) {
              if (typeof value === 'number') expect(figures[name], `seed ${seed} ${name}`).toBeCloseTo(value, 6)
              else expect(figures[name], `seed ${seed} ${name}`).toBe(value)
            }
          })
        }
      })
    }
  }
})

describe('local buckets', () => {
  const at = (text: string) => Date.parse(text)
  const starts = (interval: number, zone: string, from: string, count: number) => {
    const intervals = createIntervals(interval, zone)
    const list: string[] = []
    for (let start = intervals.start(at(from)); list.length < count; start = intervals.end(start)) {
      list.push(new Date(start).toISOString())
    }
    return list
  }
  const hour = 3_600_000

  test('a day in Berlin begins at local midnight and has 23 hours in March, 25 in October', () => {
    expect(starts(24 * hour, 'Europe/Berlin', '2024-03-30T12:00:00Z', 3)).toEqual([
      '2024-03-29T23:00:00.000Z',
      '2024-03-30T23:00:00.000Z',
      '2024-03-31T22:00:00.000Z',
    ])
    expect(starts(24 * hour, 'Europe/Berlin', '2024-10-27T12:00:00Z', 2)).toEqual([
      '2024-10-26T22:00:00.000Z',
      '2024-10-27T23:00:00.000Z',
    ])
  })

  test('hours are all there when the clock is turned, and offsets of half an hour are kept', () => {
    expect(starts(hour, 'Europe/Berlin', '2024-10-27T00:00:00Z', 3)).toEqual([
      '2024-10-27T00:00:00.000Z',
      '2024-10-27T01:00:00.000Z',
      '2024-10-27T02:00:00.000Z',
    ])
    expect(starts(hour, 'Asia/Kolkata', '2024-05-01T00:00:00Z', 2)).toEqual([
      '2024-04-30T23:30:00.000Z',
      '2024-05-01T00:30:00.000Z',
    ])
  })

  test('weeks begin on Monday', () => {
    expect(starts(7 * 24 * hour, 'America/New_York', '2024-11-07T12:00:00Z', 2)).toEqual([
      '2024-11-04T05:00:00.000Z',
      '2024-11-11T05:00:00.000Z',
    ])
  })

  /** Where a zone turns its clock, from 2000 to 2025. */
  function changesOf(zone: Zone): number[] {
    const day = 24 * hour
    const changes: number[] = []
    for (let ts = at('2000-01-01T00:00:00Z'); ts < at('2025-01-01T00:00:00Z'); ts += day) {
      if (zone(ts) !== zone(ts + day)) changes.push(changeBetween(zone, ts, ts + day))
    }
    return changes
  }

  // Half an hour, one minute past midnight, at midnight, a day left out, a month of fasting, three hours, and never.
  for (const name of [
    'Europe/Berlin',
    'Australia/Lord_Howe',
    'America/St_Johns',
    'America/Sao_Paulo',
    'America/Havana',
    'Pacific/Apia',
    'Africa/Casablanca',
    'Antarctica/Casey',
    'Asia/Kathmandu',
  ]) {
    test(`at every change of 25 years in ${name} buckets follow one another, and each instant is in one`, () => {
      const zone = createZone(name)
      const changes = [at('2024-06-01T12:34:56.789Z'), ...changesOf(zone)]
      for (const minutes of [1, 7, 15, 40, 45, 60, 90, 120, 360, 1440, 2880, 10080]) {
        const interval = minutes * 60_000
        const intervals = createIntervals(interval, name)
        for (const change of changes) {
          const told = `${minutes}m, ${new Date(change).toISOString()}`
          let start = intervals.start(change - Math.min(2 * interval, 3 * hour))
          for (let buckets = 0; start <= change + 3 * hour && buckets < 400; buckets++) {
            const end = intervals.end(start)
            if (!(end > start)) throw new Error(`${told}: a bucket from ${start} to ${end}`)
            const instants = [start, start + 1, Math.floor((start + end) / 2), end - 1, change - 1, change, change + 1]
            for (const ts of instants) {
              if (ts < start || ts >= end) continue
              if (intervals.start(ts) !== start || intervals.end(ts) !== end) throw new Error(`${told}: ${ts}`)
            }
            start = end
          }
        }
      }
    })
  }

  test('an hour that half an hour is taken from or given to is cut, and a reading in it is found', () => {
    // The clocks of Lord Howe Island go back by half an hour at 15:00 UTC.
    expect(starts(hour, 'Australia/Lord_Howe', '2025-04-05T14:30:00Z', 4)).toEqual([
      '2025-04-05T14:00:00.000Z',
      '2025-04-05T15:00:00.000Z',
      '2025-04-05T15:30:00.000Z',
      '2025-04-05T16:30:00.000Z',
    ])
    const rows = {
      times: Float64Array.of(at('2025-04-05T14:40:00Z'), at('2025-04-05T15:01:00Z')),
      columns: [one([1, 2])],
    }
    const page = readBuckets(
      [headOf(rows)],
      wholeAnswer([1]),
      lastOf(hour),
      createIntervals(hour, 'Australia/Lord_Howe'),
    )
    expect([...page.times]).toEqual([at('2025-04-05T14:00:00Z'), at('2025-04-05T15:00:00Z')])
  })

  test('a bucket without an end that lies after its readings is an error and no endless loop', () => {
    const rows = { times: Float64Array.of(1000), columns: [one([1])] }
    const broken = { start: () => 0, end: () => 1000 }
    expect(() => readBuckets([headOf(rows)], wholeAnswer([1]), lastOf(1000), broken)).toThrow('BUG')
  })
})

const one = (values: number[], metric = 1) => ({ metric, values: Float64Array.from(values) })
const lastOf = (interval: number): BucketQuery => ({
  written: '',
  interval,
  aggregate: ['last'],
  fill: 'none',
  timezone: null,
})

function headOf(rows: Rows): Segment {
  const { times } = rows
  const [firstTs, lastTs] = [times[0] as number, times.at(-1) as number]
  return { firstTs, lastTs, rows: times.length, directory: null, open: () => rows }
}

function wholeAnswer(metrics: number[]) {
  const [from, to] = [Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER]
  return { from, to, position: null, order: 'asc' as const, limit: 100, metrics }
}

describe('limits of what a query may ask', () => {
  test('a sum or a slope that is no number any more is no value', () => {
    const most = Number.MAX_VALUE
    const rows = { times: Float64Array.of(0, 1, 60_000, 180_000), columns: [one([most, most, -most, most])] }
    const query: BucketQuery = { ...lastOf(60_000), aggregate: ['sum', 'avg', 'last'], fill: 'linear' }
    const { columns } = readBuckets([headOf(rows)], wholeAnswer([1]), query, createIntervals(60_000, null))
    expect(columns.map(({ values }) => values)).toEqual([
      [undefined, -most, undefined, most],
      [undefined, -most, undefined, most],
      [most, -most, undefined, most],
    ])
  })

  for (const fill of ['previous', 'linear'] as const) {
    test(`looking for a neighbour counts: with fill=${fill} it ends when enough was looked at`, () => {
      let opened = 0
      const segments = Array.from({ length: 500 }, (_, index): Segment => {
        const times = Float64Array.of(index * 1000)
        const rows = { times, columns: index === 0 ? [one([1]), one([5], 2)] : [one([1])] }
        const open = () => {
          opened++
          return rows
        }
        return { ...headOf(rows), open }
      })
      const page = { ...wholeAnswer([1, 2]), from: 0, position: 499_000, limit: 1, isEnough: () => opened > 10 }
      const query = { ...lastOf(1000), fill }
      expect(() => readBuckets(segments, page, query, createIntervals(1000, null))).toThrow(TooCostly)
      expect(opened).toBeLessThan(20)
      // A block says what it holds, and is not opened in vain.
      const sealed = segments.map((segment): Segment => {
        return { ...segment, directory: readDirectory(encodeBlock(segment.open()).directory) }
      })
      opened = 0
      const { columns } = readBuckets(sealed, page, query, createIntervals(1000, null))
      expect(columns.find(({ metric }) => metric === 2)?.values).toEqual([fill === 'previous' ? 5 : undefined])
      expect(opened).toBeLessThan(5)
    })
  }
})
