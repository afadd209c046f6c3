import { describe, expect, test } from 'vitest'
import type { Value } from '../../devices/reading.ts'
import { encodePage } from '../../src/history/encode.ts'
import { maxNumberBytes, writeNumber } from '../../src/history/json-bytes.ts'
import { columnName, type Table } from '../../src/history/layouts.ts'
import { type Format, formats, type HistoryQuery, writePosition } from '../../src/history/query.ts'
import { valueAt } from '../../src/store/columns.ts'
import { createRandom, type Random } from '../random.ts'

function written(value: number): string {
  // What does not fit is lost, and then the text is not the one expected.
  const bytes = Buffer.alloc(1 + maxNumberBytes)
  return bytes.toString('latin1', 1, writeNumber(bytes, 1, value))
}

const someNumber: Record<string, (random: Random) => number> = {
  'integers of any length': (random) => Math.round(random.next() * 10 ** random.integer(0, 21)),
  'times in milliseconds': (random) => random.integer(-8.64e15, 8.64e15),
  'decimals of any length and place': (random) =>
    Number(`${random.integer(0, 10 ** random.integer(0, 15))}e-${random.integer(0, 20)}`),
  'sums of decimals': (random) => random.integer(0, 1e6) / 10 + random.integer(0, 1e6) / 100,
  'what is next to a decimal': (random) => neighbour(random.integer(0, 1e9) / 10 ** random.integer(0, 7), random),
  'what is next to a power of ten': (random) => neighbour(10 ** random.integer(-10, 22), random),
  'any bits': (random) => {
    const number = new Float64Array(Uint32Array.of(random.next() * 2 ** 32, random.next() * 2 ** 32).buffer)[0]
    return Number.isFinite(number) ? (number as number) : 0
  },
}

/** The double itself, or one of its neighbours. */
function neighbour(number: number, random: Random): number {
  const bits = new BigInt64Array(Float64Array.of(number).buffer)
  bits[0] = (bits[0] as bigint) + BigInt(random.integer(-2, 2))
  const near = new Float64Array(bits.buffer)[0] as number
  return Number.isFinite(near) ? near : number
}

describe('a number is written as JSON.stringify does it', () => {
  for (const [name, make] of Object.entries(someNumber)) {
    test(name, () => {
      const random = createRandom(17)
      for (let i = 0; i < 50_000; i++) {
        const number = make(random)
        for (const signed of [number, -number]) {
          // `expect` only for what differs: these are 100,000 numbers.
          if (written(signed) !== JSON.stringify(signed)) expect(written(signed)).toBe(JSON.stringify(signed))
        }
      }
    })
  }

  test('the edges', () => {
    const edges = [0, -0, 0.1, 1e-6, 1e-7, 123e-8, 0.000001, 9.999999, 999999999999.999, 1e15, 1e15 - 1, 1e21, 5e-324]
    edges.push(
      Number.MAX_VALUE,
      Number.MIN_VALUE,
      Number.MAX_SAFE_INTEGER,
      2 ** 31,
      2 ** 32,
      1e7,
      9_999_999,
      0.3,
      0.1 + 0.2,
    )
    for (const number of edges) {
      expect(written(number)).toBe(JSON.stringify(number))
      expect(written(-number)).toBe(JSON.stringify(-number))
    }
  })
})

const query: HistoryQuery = {
  device: 'kitchen "1"',
  metrics: [],
  columns: null,
  from: null,
  to: null,
  order: 'asc',
  position: null,
  limit: 1000,
  format: 'json',
  maxPoints: Number.POSITIVE_INFINITY,
  buckets: null,
}
const buckets = { written: '90s', interval: 90_000, aggregate: ['avg' as const], timezone: null }

function someTable(random: Random, aggregated: boolean): Table {
  const length = random.integer(0, 300)
  let ts = random.integer(-5, 5) * 1e11
  const times = Float64Array.from({ length }, () => {
    ts += random.integer(1, 100_000)
    return ts
  })
  const value = (): Value | undefined =>
    random.pick([undefined, true, false, 'on', 'gr\u00fcn, "\u{1f33f}"\n', '', random.integer(-999, 999) / 100])
  const columns = ['temperature', 'on', 'größe'].slice(0, random.integer(0, 3)).flatMap((metric) =>
    (aggregated ? ['min', 'last'] : [null]).map((aggregate) => ({
      metric,
      aggregate,
      values:
        random.next() < 0.5
          ? Float64Array.from({ length }, () => (random.next() < 0.2 ? Number.NaN : random.integer(-999, 999) / 10))
          : Array.from({ length: random.next() < 0.1 ? 0 : length }, value),
    })),
  )
  return { times, columns }
}

/** The same by way of objects. */
function plainPage({ times, columns }: Table, { device, order, format, buckets }: HistoryQuery, next: number | null) {
  const rows = [...times.keys()]
  if (order === 'desc') rows.reverse()
  const cells = (row: number) => columns.map(({ values }) => valueAt(values, row))
  const place = next === null ? null : writePosition(next)
  const interval = buckets ? { interval: buckets.written } : {}
  if (format === 'csv') {
    const field = (value: Value | undefined) =>
      typeof value === 'string' && (value === '' || /[",\n]/.test(value))
        ? `"${value.replaceAll('"', '""')}"`
        : String(value ?? '')
    return rows.map((row) => `${[times[row], ...cells(row)].map(field).join(',')}\n`).join('')
  }
  if (format === 'columns') {
    const names = ['ts', ...columns.map(columnName)]
    const lists = rows.map((row) => [times[row], ...cells(row).map((value) => value ?? null)])
    return JSON.stringify({ device, ...interval, columns: names, rows: lists, next: place })
  }
  const objects = rows.map((row) => {
    const values: Record<string, unknown> = {}
    for (const { metric, aggregate, values: own } of columns) {
      const value = valueAt(own, row) ?? (buckets && buckets.fill !== 'none' ? null : undefined)
      if (value === undefined) continue
      if (aggregate === null) values[metric] = value
      else values[metric] = { ...(values[metric] as object), [aggregate]: value }
    }
    return { ts: times[row], values }
  })
  if (format === 'ndjson') return objects.map((object) => `${JSON.stringify(object)}\n`).join('')
  return JSON.stringify({ device, ...interval, [buckets ? 'buckets' : 'readings']: objects, next: place })
}

describe('a page', () => {
  for (const format of formats) {
    test(`as ${format} is what its rows are as objects`, () => {
      for (let seed = 1; seed <= 200; seed++) {
        const random = createRandom(seed)
        const fill = random.pick([null, 'none', 'null'] as const)
        const table = someTable(random, fill !== null)
        const order = random.pick(['asc', 'desc'] as const)
        const asked = { ...query, order, format, buckets: fill && { ...buckets, fill } }
        const next = random.pick([null, 1_700_000_000_000])
        const page = encodePage(table, asked, next)
        expect(page).toMatchObject({ rows: table.times.length, next })
        expect(new TextDecoder().decode(page.body), `seed ${seed}`).toBe(plainPage(table, asked, next))
      }
    })
  }

  for (const order of ['asc', 'desc'] as const) {
    test(`that would be too long ends early and says where to go on (${order})`, () => {
      const times = Float64Array.from({ length: 20_000 }, (_, i) => i * 1000)
      const values = Array.from(times, (ts) => 'x'.repeat(4000) + ts)
      const table: Table = { times, columns: [{ metric: 'text', aggregate: null, values }] }
      const format: Format = 'json'
      const { body, rows, next } = encodePage(table, { ...query, format, order }, null)
      const { readings } = JSON.parse(new TextDecoder().decode(body)) as { readings: { ts: number }[] }
      expect(readings).toHaveLength(rows)
      expect(rows).toBeLessThan(times.length)
      const last = readings.at(-1)?.ts as number
      // With `desc` a position is exclusive.
      expect(next).toBe(order === 'asc' ? last + 1000 : last)
    })
  }
})
