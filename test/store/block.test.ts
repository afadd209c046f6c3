import { describe, expect, test } from 'vitest'
import type { Value } from '../../devices/reading.ts'
import {
  decodeBlock,
  decodeIntegers,
  decodeNumbers,
  encodeBlock,
  encodeIntegers,
  encodeNumbers,
  readDirectory,
} from '../../src/store/block.ts'
import { type Rows, valueAt } from '../../src/store/columns.ts'
import { createRandom, type Random } from '../random.ts'

const numberSeries: Record<string, (random: Random, i: number) => number> = {
  constant: () => 21.5,
  counter: (_random, i) => i * 3,
  'a walk with one decimal': (random, i) => Math.round(200 + Math.sin(i / 50) * 50 + random.next() * 10) / 10,
  'six decimals': (random) => Math.round(random.next() * 180e6) / 1e6,
  doubles: (random) => random.next() * 1000,
  'huge and tiny': (random) => (random.next() - 0.5) * 10 ** random.integer(-300, 300),
  'large integers': (random) => random.integer(-(2 ** 48), 2 ** 48),
  'beyond what differences hold': (random) => random.pick([Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER, 1]),
  'alternating extremes': (_random, i) => (i % 2 === 0 ? 2 ** 48 : -(2 ** 48)),
  'large, then with decimals': (_random, i) => (i === 0 ? 2 ** 48 : 0.001),
}
const lengths = [0, 1, 2, 3, 4, 7, 100, 4096]

describe('the codec of numbers', () => {
  for (const [name, value] of Object.entries(numberSeries)) {
    test(`gives back ${name}, bit for bit`, () => {
      const random = createRandom(11)
      for (const length of lengths) {
        const numbers = Float64Array.from({ length }, (_, i) => value(random, i))
        expect(decodeNumbers(encodeNumbers(numbers), length)).toEqual(numbers)
      }
    })
  }

  test('gives back integers of any slope and order', () => {
    for (let seed = 1; seed <= 200; seed++) {
      const random = createRandom(seed)
      const length = random.integer(0, 300)
      let value = random.integer(-(2 ** 40), 2 ** 40)
      let step = random.integer(-1000, 1000)
      const integers = Float64Array.from({ length }, () => {
        step += random.integer(-2, 2) * random.integer(0, 1)
        value += step
        return value
      })
      expect(decodeIntegers(encodeIntegers(integers), length), `seed ${seed}`).toEqual(integers)
    }
  })
})

const someValue: Record<string, (random: Random) => Value | undefined> = {
  number: (random) => random.integer(-500, 500) / 10,
  boolean: (random) => random.next() < 0.5,
  text: (random) => random.pick(['on', 'off', 'geöffnet', '']),
  anything: (random) => random.pick([1, 'one', true, 0.5, '1', false]),
}

function someRows(random: Random, kind: string, sparse: boolean): Rows {
  const length = random.integer(1, 500)
  let ts = 1_700_000_000_000
  const times = Float64Array.from({ length }, () => {
    ts += random.integer(0, 3) * 1000
    return ts
  })
  const make = someValue[kind] as (random: Random) => Value | undefined
  const values = Array.from({ length }, () => (sparse && random.next() < 0.4 ? undefined : make(random)))
  const isNumber = kind === 'number'
  return {
    times,
    columns: [{ metric: 7, values: isNumber ? Float64Array.from(values, (v) => (v as number) ?? Number.NaN) : values }],
  }
}

describe('a block', () => {
  for (const kind of Object.keys(someValue)) {
    for (const sparse of [false, true]) {
      test(`gives back a ${sparse ? 'sparse ' : ''}column of kind ${kind}, and its directory is right`, () => {
        for (let seed = 1; seed <= 40; seed++) {
          const rows = someRows(createRandom(seed), kind, sparse)
          const { directory: bytes, data } = encodeBlock(rows)
          const directory = readDirectory(bytes)
          const decoded = decodeBlock(directory, data)
          expect(decoded.times).toEqual(rows.times)
          const before = rows.columns[0]?.values ?? []
          const after = decoded.columns[0]?.values ?? []
          const values: Value[] = []
          for (let i = 0; i < rows.times.length; i++) {
            expect(valueAt(after, i)).toBe(valueAt(before, i))
            const value = valueAt(before, i)
            if (value !== undefined) values.push(value)
          }
          const summary = directory.columns[0]
          expect(summary?.count).toBe(values.length)
          expect(directory.distinct).toBe(new Set(rows.times).size === rows.times.length)
          if (summary?.kind === 'mixed' || values.length === 0) continue
          const numbers = values.map(Number)
          expect(summary?.min).toBe(Math.min(...numbers))
          expect(summary?.max).toBe(Math.max(...numbers))
          expect(summary?.first).toBe(numbers[0])
          expect(summary?.last).toBe(numbers.at(-1))
          expect(summary?.sum).toBeCloseTo(numbers.reduce((a, b) => a + b, 0))
        }
      })
    }
  }

  test('opens only the columns that are asked for', () => {
    const times = Float64Array.from([1, 2, 3])
    const columns = [1, 2, 3].map((metric) => ({ metric, values: Float64Array.from([metric, metric, metric]) }))
    const { directory, data } = encodeBlock({ times, columns })
    const decoded = decodeBlock(readDirectory(directory), data, (metric) => metric === 2)
    expect(decoded.columns).toEqual([{ metric: 2, values: Float64Array.from([2, 2, 2]) }])
  })

  test('takes a byte or two for a reading of a steady sensor', () => {
    const length = 4096
    const times = Float64Array.from({ length }, (_, i) => 1_700_000_000_000 + i * 10_000)
    const values = Float64Array.from({ length }, (_, i) => Math.round(215 + 30 * Math.sin(i / 300)) / 10)
    const { directory, data } = encodeBlock({ times, columns: [{ metric: 1, values }] })
    expect((directory.length + data.length) / length).toBeLessThan(0.5)
  })
})
